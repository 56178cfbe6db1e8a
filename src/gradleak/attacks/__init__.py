"""Attacks: from an observation to a reconstruction. They never see the truth."""

from gradleak.attacks.protocol import Attack, Progress
from gradleak.attacks.recipes import dlg, idlg

ATTACKS = (dlg, idlg)
"""Factories of every attack that comes with the package, for listings; the name is the function's own."""

__all__ = ["ATTACKS", "Attack", "Progress", "dlg", "idlg"]
