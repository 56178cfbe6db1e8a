"""A box without walls: the variable as a squashed free one, so that every candidate lies inside the bounds.

`x = low + (high - low) (1 + tanh u) / 2` (Carlini and Wagner 2017, section V.B, for adversarial examples). Near a bound
the gradient in u fades, which a projection does not do; in return the search is smooth everywhere.
"""

import torch
from torch import Tensor

from gradleak.attacks.layout import Layout
from gradleak.optim.stages import Coordinates

# A variable on a bound has no finite u; this share of the interval away from it, it does.
_MARGIN = 1e-3


def squashed(layout: Layout, low: float, high: float) -> tuple[Coordinates, Coordinates]:
    """The two directions between free coordinates and variables inside a box; target logits pass through.

    Args:
        layout: of the flat candidate.
        low: smallest value of the variable.
        high: largest value.

    Returns:
        `expand` from free coordinates to variables and `restrict` back, both on flat vectors `[D]`.
    """

    def expand(candidate: Tensor) -> Tensor:
        free, logits = layout.split(candidate)
        return layout.pack(low + (high - low) * (1 + torch.tanh(free)) / 2, logits)

    def restrict(candidate: Tensor) -> Tensor:
        variable, logits = layout.split(candidate)
        share = ((variable - low) / (high - low)).clamp(_MARGIN, 1 - _MARGIN)
        return layout.pack(torch.atanh(2 * share - 1), logits)

    return expand, restrict
