"""Laplace noise on the update."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class LaplaceNoise:
    """Add independent Laplace noise to every entry of the update (Zhu, Liu, Han 2019, section 5.1).

    The density is `exp(-|x| / scale) / (2 scale)`: the standard deviation of one entry is `scale * sqrt(2)`. To an
    attacker who knows this defense, the sum of absolute differences is the likelihood.

    Args:
        scale: in the update's own units; neither a standard deviation nor a variance. For the figures of the paper,
            which calls them variances, see `of_variance`; for a comparison with Gaussian noise, `of_std`.
    """

    scale: float

    @classmethod
    def of_variance(cls, variance: float) -> "LaplaceNoise":
        """Noise of a variance, for figures that are given as such.

        Args:
            variance: of one entry, in the square of the update's units; at least 0.

        Returns:
            The defense, with scale `sqrt(variance / 2)`; a variance below 0 gives NaN, which `problems` refuses.

        >>> LaplaceNoise.of_variance(0.02).scale
        0.1
        """
        return cls((variance / 2) ** 0.5 if variance >= 0 else float("nan"))

    @classmethod
    def of_std(cls, std: float) -> "LaplaceNoise":
        """Noise of a standard deviation, as strong as `GaussianNoise(std)`.

        Args:
            std: of one entry, in the update's own units.

        Returns:
            The defense, with scale `std / sqrt(2)`.
        """
        return cls(std / 2**0.5)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on one entry."""
        return self.scale * 2**0.5

    @property
    def noise_law(self) -> Literal["gaussian", "laplace"]:
        """The law of the noise."""
        return "laplace"

    def problems(self) -> list[str]:
        """A scale that is negative or not finite."""
        if 0 <= self.scale < float("inf"):
            return []
        return [f"LaplaceNoise.scale: expected a finite value of at least 0, got {self.scale}; 0 adds no noise"]

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Noise drawn tensor by tensor from one stream, so that equal shapes get different noise."""
        del kind
        if generator is None:
            return dict(tensors)
        return {name: tensor + self.scale * _standard(tensor, generator) for name, tensor in tensors.items()}

    def preimage(self, after: Preimage) -> Preimage:
        """The same: noise moves an entry, by an amount that the objective weighs."""
        return after


def _standard(like: Tensor, generator: torch.Generator) -> Tensor:
    """Laplace noise of scale 1, as the difference of two exponential variables, which has exactly that law."""
    pair = torch.empty((2, *like.shape), dtype=like.dtype, device=generator.device).exponential_(generator=generator)
    return (pair[0] - pair[1]).to(like.device)
