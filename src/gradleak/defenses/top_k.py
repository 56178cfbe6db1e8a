"""Pruning: only the largest entries of the update are sent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage
from gradleak.updates import UpdateKind

Scope = Literal["global", "layer"]


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
        if self.scope not in {"global", "layer"}:
            found.append(f"TopK.scope: expected 'global' or 'layer', got {self.scope!r}; choose one")
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
        """A zero was no larger than the smallest entry that was sent."""
        smallest = {name: _smallest(after.lower[name], after.upper[name]) for name in after.lower}
        if self.scope == "global":
            least = min(smallest.values(), key=float)
            smallest = dict.fromkeys(smallest, least)

        def change(name: str, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            pruned = (lower <= 0) & (upper >= 0)
            reach = smallest[name].to(lower)
            # What is unknown after the pruning stays unknown before it.
            return torch.where(pruned, lower.clamp(max=-reach), lower), torch.where(
                pruned, upper.clamp(min=reach), upper
            )

        return after.widened(change)


def largest(tensor: Tensor, keep: float) -> Tensor:
    """Which entries are the largest by absolute value.

    Args:
        tensor: of any shape.
        keep: share of its entries, in (0, 1]; rounded up.

    Returns:
        True for those, of the tensor's shape.
    """
    count = math.ceil(keep * tensor.numel())
    chosen = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
    chosen[tensor.detach().abs().flatten().topk(count).indices] = True
    return chosen.view(tensor.shape)


def _smallest(lower: Tensor, upper: Tensor) -> Tensor:
    """The largest value that the smallest entry that was sent can have; infinity where none was."""
    sent = (lower > 0) | (upper < 0)
    sizes = torch.where(sent, torch.maximum(lower.abs(), upper.abs()), torch.inf)
    return sizes.min()
