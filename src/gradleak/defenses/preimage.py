"""What an update that was sent says about the update before it was defended, entry by entry.

Rounding leaves a cell, pruning an interval around zero, a sign a half line, a dropped layer nothing at all. An attacker
who knows the defense counts as a misfit only what lies outside (Balunovic et al. 2022: the likelihood of the defended
update, not of the plain one).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Preimage:
    """For each entry of an update the interval in which it must have been.

    Attributes:
        lower: smallest possible value of each entry, `-inf` where anything is possible.
        upper: largest possible value.
        sizes: mean absolute value that each tensor has once its scale is fixed; the intervals hold up to one positive
            factor for each tensor then. None where the scale is known.
    """

    lower: dict[str, Tensor]
    upper: dict[str, Tensor]
    sizes: dict[str, Tensor] | None = None

    @classmethod
    def exactly(cls, observed: Mapping[str, Tensor]) -> "Preimage":
        """Every entry is known."""
        return cls(dict(observed), dict(observed))

    def widened(self, change: Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]) -> "Preimage":
        """With other intervals, made of a name and the two ends."""
        ends = {name: change(name, self.lower[name], self.upper[name]) for name in self.lower}
        return Preimage(
            {name: pair[0] for name, pair in ends.items()}, {name: pair[1] for name, pair in ends.items()}, self.sizes
        )

    def violation(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How far each entry lies outside its interval: negative below, positive above, zero within.

        Args:
            tensors: of a candidate, by name; other names than those known are left out.

        Returns:
            By name, of the candidate's shapes, differentiable by the candidate.
        """
        found: dict[str, Tensor] = {}
        for name, lower in self.lower.items():
            tensor = tensors[name]
            if self.sizes is not None:
                mean = tensor.abs().mean()
                tensor = tensor * (self.sizes[name].to(tensor) / torch.where(mean > 0, mean, 1))
            found[name] = tensor - torch.clamp(tensor, lower.to(tensor), self.upper[name].to(tensor))
        return found
