"""Signs: one bit for each entry of the update."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class Sign:
    """Send the sign of every entry, and 0 for an entry of exactly 0 (signSGD, Bernstein et al. 2018).

    Args:
        scaled: multiply each tensor's signs by the mean of its absolute values (Karimireddy et al. 2019).
    """

    scaled: bool = False

    def problems(self) -> list[str]:
        """None: every setting is allowed."""
        return []

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The signs; their gradient, which is zero almost everywhere, is replaced by that of the entries themselves."""
        del kind, generator
        return {name: self._signs(tensor) for name, tensor in tensors.items()}

    def preimage(self, after: Preimage) -> Preimage:
        """A half line for each entry, with violations measured at the scale that was sent, or at 1 for plain signs."""

        def change(_: str, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            return (
                torch.where(lower < 0, -torch.inf, torch.zeros_like(lower)),
                torch.where(upper > 0, torch.inf, torch.zeros_like(upper)),
            )

        known = after.widened(change)
        sizes = {name: self._size(after.lower[name], after.upper[name]) for name in after.lower}
        return Preimage(known.lower, known.upper, sizes)

    def _signs(self, tensor: Tensor) -> Tensor:
        scale = tensor.abs().mean() if self.scaled else 1
        value = (tensor.sign() * scale).detach()
        return value + (tensor - tensor.detach())

    def _size(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The scale that was sent: the size of entries known not to be 0; 1 where it was not, or none is known."""
        nearest = torch.maximum(lower, -upper).clamp(min=0)
        sent = nearest > 0
        found = torch.where(sent, nearest, 0).sum() / sent.sum().clamp(min=1)
        return torch.where(sent.any(), found, 1) if self.scaled else torch.ones_like(found)
