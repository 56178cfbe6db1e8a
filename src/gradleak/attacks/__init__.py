"""Attacks: from an observation to a reconstruction. They never see the truth."""

from gradleak.attacks.auto import auto
from gradleak.attacks.batch_defenses.restoration import batch_restoration
from gradleak.attacks.batch_norm import batch_norm_inversion
from gradleak.attacks.closed_form import (
    CLOSED_FORMS,
    april,
    cocktail_party,
    layer_recursion,
    linear_layer,
    position_gradient,
    softmax_separation,
    spear,
)
from gradleak.attacks.defended.most_probable import maximum_a_posteriori
from gradleak.attacks.dropout import dropout_inversion
from gradleak.attacks.latents.attack import precode_inversion
from gradleak.attacks.learned import learned
from gradleak.attacks.local import local_training, order_invariant, sme
from gradleak.attacks.protocol import Attack, Progress
from gradleak.attacks.recipes import (
    cpl,
    dlg,
    finite_differences,
    gradinversion,
    idlg,
    inverting_gradients,
    r_gap,
    sapag,
)
from gradleak.attacks.relu import relu_inversion
from gradleak.attacks.residual import residual_peeling
from gradleak.attacks.smooth import staged
from gradleak.attacks.text import dager, dlg_text, lamp, tag, token_bag, train_language_model
from gradleak.attacks.using_layers import using_layers

ATTACKS = (
    auto,
    *CLOSED_FORMS,
    staged,
    maximum_a_posteriori,
    residual_peeling,
    relu_inversion,
    batch_norm_inversion,
    dropout_inversion,
    batch_restoration,
    precode_inversion,
    local_training,
    sme,
    order_invariant,
    dlg,
    idlg,
    cpl,
    inverting_gradients,
    sapag,
    gradinversion,
    r_gap,
    finite_differences,
    using_layers,
    learned,
    dlg_text,
    tag,
    lamp,
    dager,
    token_bag,
)
"""Factories of every attack that comes with the package, for listings; the name is the function's own."""

__all__ = [
    "ATTACKS",
    "Attack",
    "Progress",
    "april",
    "auto",
    "batch_norm_inversion",
    "batch_restoration",
    "cocktail_party",
    "cpl",
    "dager",
    "dlg",
    "dlg_text",
    "finite_differences",
    "dropout_inversion",
    "gradinversion",
    "idlg",
    "inverting_gradients",
    "lamp",
    "layer_recursion",
    "learned",
    "linear_layer",
    "local_training",
    "maximum_a_posteriori",
    "order_invariant",
    "position_gradient",
    "precode_inversion",
    "r_gap",
    "relu_inversion",
    "residual_peeling",
    "sapag",
    "sme",
    "softmax_separation",
    "spear",
    "staged",
    "tag",
    "train_language_model",
    "token_bag",
    "using_layers",
]
