"""Attacks: from an observation to a reconstruction. They never see the truth."""

from gradleak.attacks.protocol import Attack, Progress
from gradleak.attacks.recipes import cpl, dlg, gradinversion, idlg, inverting_gradients, sapag
from gradleak.attacks.smooth import staged

ATTACKS = (dlg, idlg, cpl, inverting_gradients, sapag, gradinversion, staged)
"""Factories of every attack that comes with the package, for listings; the name is the function's own."""

__all__ = [
    "ATTACKS",
    "Attack",
    "Progress",
    "cpl",
    "dlg",
    "gradinversion",
    "idlg",
    "inverting_gradients",
    "sapag",
    "staged",
]
