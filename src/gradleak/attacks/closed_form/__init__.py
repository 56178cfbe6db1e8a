"""Closed forms: inputs by algebra instead of search. Each says when it does not apply, and why."""

from gradleak.attacks.closed_form.april import april
from gradleak.attacks.closed_form.cocktail_party import cocktail_party
from gradleak.attacks.closed_form.linear_layer import linear_layer
from gradleak.attacks.closed_form.position_gradient import position_gradient
from gradleak.attacks.closed_form.recursion import layer_recursion
from gradleak.attacks.closed_form.softmax_separation import softmax_separation
from gradleak.attacks.closed_form.spear import spear

CLOSED_FORMS = (linear_layer, layer_recursion, position_gradient, april, spear, softmax_separation, cocktail_party)
"""In the order in which the portfolio tries them: exact ones before approximate ones."""

__all__ = [
    "CLOSED_FORMS",
    "april",
    "cocktail_party",
    "layer_recursion",
    "linear_layer",
    "position_gradient",
    "softmax_separation",
    "spear",
]
