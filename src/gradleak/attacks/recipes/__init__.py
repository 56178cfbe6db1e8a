"""Published attacks as short functions with the papers' numbers. One file each, and one line here."""

from gradleak.attacks.recipes.cpl import cpl
from gradleak.attacks.recipes.dlg import dlg
from gradleak.attacks.recipes.finite_differences import finite_differences
from gradleak.attacks.recipes.gradinversion import gradinversion
from gradleak.attacks.recipes.idlg import idlg
from gradleak.attacks.recipes.inverting_gradients import inverting_gradients
from gradleak.attacks.recipes.r_gap import r_gap
from gradleak.attacks.recipes.sapag import sapag

__all__ = ["cpl", "dlg", "finite_differences", "gradinversion", "idlg", "inverting_gradients", "r_gap", "sapag"]
