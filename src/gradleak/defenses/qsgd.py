"""QSGD: unbiased stochastic quantization to a few levels of a norm."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.defenses.preimage import Preimage, outward
from gradleak.defenses.spacing import largest_unit
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class QSGD:
    """Round every entry to a level of its tensor's norm, up or down at random (Alistarh et al. 2017, section 3.1).

    `norm * sign(v) * l / levels` with l one of the two integers next to `levels * |v| / norm`, such that the mean is v.
    The variance is at most `min(n / levels^2, sqrt(n) / levels) * norm^2` for n entries that share a norm.

    What a client of the paper sends, a norm and integers, arrives here as their product. An attacker gets the unit
    `norm / levels` back as the smallest difference between sizes that were sent: exactly if any two are one level
    apart, and a multiple of it, which is safe, otherwise. A tensor or bucket of zeros is taken to say nothing.

    Args:
        levels: above zero, on either side; 1 sends a sign or nothing.
        bucket: number of consecutive entries that share a norm; None for a norm of each tensor.
    """

    levels: int
    bucket: int | None = None

    def problems(self) -> list[str]:
        """Fewer than one level, or a bucket of fewer than one entry."""
        found: list[str] = []
        if self.levels < 1:
            found.append(f"QSGD.levels: expected at least 1, got {self.levels}; 127 is one byte for an entry")
        if self.bucket is not None and self.bucket < 1:
            found.append(f"QSGD.bucket: expected at least 1 entry, got {self.bucket}; None is the whole tensor")
        return found

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """What was drawn; without a generator its mean, the update itself."""
        del kind
        if generator is None:
            return dict(tensors)
        return {name: self._drawn(tensor, generator) for name, tensor in tensors.items()}

    def preimage(self, after: Preimage) -> Preimage:
        """One level to either side, but not across zero."""
        if after.sizes is not None:
            return after.without_zeros()

        def change(_: str, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            rounding = torch.finfo(lower.dtype).eps
            pairs = zip(self._buckets(lower), self._buckets(upper), strict=True)
            units = torch.stack([largest_unit(low, high, rounding) for low, high in pairs])
            reach = units.repeat_interleave(self._size(lower))[: lower.numel()].view(lower.shape)
            return outward(lower.double(), upper.double(), reach, reach)

        return after.widened(change)

    def _drawn(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        rows = self._buckets(tensor)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        levels = rows.abs() * (self.levels / torch.where(norms > 0, norms, 1))
        draws = torch.rand(rows.shape, generator=generator, dtype=rows.dtype, device=generator.device).to(rows.device)
        whole = levels.floor()
        sent = rows.sign() * (whole + (draws < levels - whole)) * (norms / self.levels)
        return sent.flatten()[: tensor.numel()].view(tensor.shape).to(tensor.dtype)

    def _size(self, tensor: Tensor) -> int:
        """Number of entries that share a norm."""
        return max(1, tensor.numel() if self.bucket is None else min(self.bucket, tensor.numel()))

    def _buckets(self, tensor: Tensor) -> Tensor:
        """Float64 rows of entries that share a norm, the last filled up with zeros, which change none."""
        size = self._size(tensor)
        missing = -tensor.numel() % size
        return functional.pad(tensor.double().flatten(), (0, missing)).view(-1, size)
