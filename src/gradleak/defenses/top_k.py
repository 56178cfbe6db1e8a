"""Pruning: only the largest entries of the update are sent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage, may_be_zero
from gradleak.defenses.scope import Scope, scope_problems
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class TopK:
    """Keep the largest entries by absolute value, and send zero for the others (Zhu, Liu, Han 2019, section 5.3).

    Args:
        keep: share of the entries that are sent, in (0, 1]; rounded up, so that at least one is. "Pruning 90 %" is 0.1.
        scope: `"global"`: the largest of the whole update; `"layer"`: of each tensor.
    """

    keep: float
    scope: Scope = "global"

    def problems(self) -> list[str]:
        """A share outside (0, 1], or an unknown scope."""
        found: list[str] = []
        if not 0 < self.keep <= 1:
            found.append(
                f"TopK.keep: expected a share above 0 and at most 1, got {self.keep}; pruning of 90 % is keep=0.1"
            )
        found += scope_problems("TopK", self.scope)
        return found

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Zeros where an entry is not among the largest; among equal ones, the first are sent."""
        del kind, generator
        if self.scope == "layer":
            return {name: tensor * largest(tensor, self.keep) for name, tensor in tensors.items()}
        together = largest(torch.cat([tensor.flatten() for tensor in tensors.values()]), self.keep)
        parts = together.split([tensor.numel() for tensor in tensors.values()])
        return {
            name: tensor * part.view(tensor.shape) for (name, tensor), part in zip(tensors.items(), parts, strict=True)
        }

    def preimage(self, after: Preimage) -> Preimage:
        """A zero was no larger than the smallest entry that was sent, of whose size a half line says nothing."""
        reaches = {name: _smallest(after.lower[name], after.upper[name]) for name in after.lower}
        if self.scope == "global":
            reaches = dict.fromkeys(reaches, min(reaches.values(), key=float, default=torch.tensor(torch.inf)))

        def change(name: str, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            pruned, reach = may_be_zero(lower, upper), reaches[name].to(lower)
            return (
                torch.where(pruned, torch.minimum(lower, -reach), lower),
                torch.where(pruned, torch.maximum(upper, reach), upper),
            )

        return after.widened(change)


def kept_count(keep: float, entries: int) -> int:
    """How many entries a share is: rounded up, but not by the rounding error of the product (0.1 * 30 is above 3).

    Args:
        keep: share, in (0, 1].
        entries: at least 0.

    Returns:
        At least 1 of any entries.
    """
    return min(entries, max(1, math.ceil(keep * entries * (1 - 1e-12))))


def largest(tensor: Tensor, keep: float) -> Tensor:
    """Which entries are the largest by absolute value.

    Args:
        tensor: of any shape.
        keep: share of its entries, in (0, 1]; rounded up.

    Returns:
        True for those, of the tensor's shape; among equal ones for the first.
    """
    # Only a stable sort says which of equal entries come first; and writing into a fresh tensor is nothing for vmap.
    order = tensor.detach().abs().flatten().sort(descending=True, stable=True).indices
    chosen = torch.zeros_like(order).scatter(0, order[: kept_count(keep, order.numel())], 1)
    return chosen.bool().view(tensor.shape)


def _smallest(lower: Tensor, upper: Tensor) -> Tensor:
    """The largest value that the smallest entry that was sent can have; infinity where none was."""
    sizes = torch.where(may_be_zero(lower, upper), torch.inf, torch.maximum(lower.abs(), upper.abs()))
    return sizes.min() if sizes.numel() else sizes.new_tensor(torch.inf)
