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

    An interval with one end at zero leaves zero out: a sign of +1 is `[0, inf]`, and only `[0, 0]` says that the entry
    was zero. Defenses further in, for which zero has a meaning, rely on that.

    Attributes:
        lower: smallest possible value of each entry, `-inf` where anything is possible.
        upper: largest possible value.
        sizes: mean absolute value that each tensor has once its scale is fixed; the intervals hold up to one positive
            factor for each tensor then, so their ends are zero or infinite. None where the scale is known.
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

    def without_zeros(self) -> "Preimage":
        """What signs alone say when an entry may also have been sent as zero, whatever it was.

        Returns:
            Anything possible where zero is, half lines elsewhere, the same sizes.
        """

        def change(_: str, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            silent = may_be_zero(lower, upper)
            positive, negative = ~silent & (upper > 0), ~silent & (lower < 0)
            return (
                torch.where(positive, torch.zeros_like(lower), -torch.inf),
                torch.where(negative, torch.zeros_like(upper), torch.inf),
            )

        return self.widened(change)

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


def outward(lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals that reach further, but not across zero where an entry's sign is known.

    Args:
        lower: smallest possible values.
        upper: largest possible values.
        below: by how much the lower ends move, at least 0.
        above: by how much the upper ends move.

    Returns:
        The new ends.
    """
    low, high = lower - below, upper + above
    silent = may_be_zero(lower, upper)
    return (
        torch.where((lower >= 0) & ~silent, low.clamp(min=0), low),
        torch.where((upper <= 0) & ~silent, high.clamp(max=0), high),
    )


def may_be_zero(lower: Tensor, upper: Tensor) -> Tensor:
    """Where zero is among the possible values, see `Preimage`.

    Args:
        lower: smallest possible values.
        upper: largest possible values, of the same shape.

    Returns:
        Booleans of that shape.
    """
    return ((lower < 0) & (upper > 0)) | ((lower == 0) & (upper == 0))
