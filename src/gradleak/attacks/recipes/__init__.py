"""Published attacks as short functions with the papers' numbers. One file each, and one line here."""

from gradleak.attacks.recipes.dlg import dlg
from gradleak.attacks.recipes.idlg import idlg

__all__ = ["dlg", "idlg"]
