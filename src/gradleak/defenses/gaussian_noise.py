"""Gaussian noise on the update."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class GaussianNoise:
    """Add independent N(0, std^2) noise to every entry of the update (Zhu, Liu, Han 2019, section 5.1).

    An attacker who knows this defense keeps the squared distance as objective, which is then the likelihood.

    Args:
        std: standard deviation of one entry, in the update's own units; not a variance, and not relative to the
            update's norm. The paper calls its figures 1e-4 to 1e-1 variances: `of_variance` takes them at its word.
    """

    std: float

    @classmethod
    def of_variance(cls, variance: float) -> "GaussianNoise":
        """Noise of a variance, for figures that are given as such.

        Args:
            variance: of one entry, in the square of the update's units; at least 0.

        Returns:
            The defense, with the square root as its std; a variance below 0 gives NaN, which `problems` refuses.

        >>> GaussianNoise.of_variance(1e-4).std
        0.01
        """
        return cls(variance**0.5 if variance >= 0 else float("nan"))

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on one entry."""
        return self.std

    @property
    def noise_law(self) -> Literal["gaussian", "laplace"]:
        """The law of the noise."""
        return "gaussian"

    def problems(self) -> list[str]:
        """A std that is negative or not finite."""
        if 0 <= self.std < float("inf"):
            return []
        return [f"GaussianNoise.std: expected a finite value of at least 0, got {self.std}; 0 adds no noise"]

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Noise drawn tensor by tensor from one stream, so that equal shapes get different noise."""
        del kind
        if generator is None:
            return dict(tensors)
        return {
            name: tensor
            + self.std
            * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=generator.device).to(
                tensor.device
            )
            for name, tensor in tensors.items()
        }

    def preimage(self, after: Preimage) -> Preimage:
        """The same: noise moves an entry, by an amount that the objective weighs."""
        return after
