"""MixUp: the client trains on mixtures of two private examples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradleak.tasks import InputSpace
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class MixUp:
    """Train on `lam x_i + (1 - lam) x_pi(i)` with targets mixed alike (Zhang et al., ICLR 2018).

    `lam` is drawn from Beta(alpha, alpha), and pi is a random permutation of the batch; both are private. Where pi
    leaves an example in place, that example is not mixed: a batch of one is sent as it is, and half of the batches of
    two are.

    Args:
        alpha: of the Beta distribution; small values leave most mixtures close to one of their examples.
        each: draw `lam` for every example instead of once for the batch.
    """

    alpha: float = 1.0
    each: bool = False

    @property
    def mixes_targets(self) -> bool:
        """Targets become soft."""
        return True

    def problems(self) -> list[str]:
        """An alpha that is not positive and finite."""
        if 0 < self.alpha < math.inf:
            return []
        return [
            f"MixUp.alpha: expected a finite value above 0, got {self.alpha}; 1 draws every share with equal chances"
        ]

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The update as it is: the batch was changed."""
        del kind, generator
        return dict(tensors)

    def coefficients(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the share of every private example in every mixed one.

        Args:
            count: number of examples N.
            generator: decides permutation and shares.

        Returns:
            `[N, N]`, float64, rows and columns sum to 1 (rows alone where `each`).
        """
        permutation = torch.randperm(count, generator=generator)
        shares = beta(self.alpha, count if self.each else 1, generator)
        return mixing(shares, permutation)

    def change_batch(
        self, variable: Tensor, target_probabilities: Tensor, space: InputSpace, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The mixed batch; see `ChangesBatch.change_batch`."""
        del space
        coefficients = self.coefficients(len(variable), generator)
        return mixed(coefficients, variable), mixed(coefficients, target_probabilities)


def beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Draws from Beta(alpha, alpha), `[count]`, float64."""
    return dirichlet(torch.full((count, 2), alpha, dtype=torch.float64), generator)[:, 0]


def dirichlet(concentrations: Tensor, generator: torch.Generator) -> Tensor:
    """One draw from a Dirichlet distribution for each row.

    Args:
        concentrations: positive, `[M, K]`, float64.
        generator: decides the draws.

    Returns:
        `[M, K]`, rows sum to 1.
    """
    # Torch's own distributions take no generator.
    source = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    # Very small concentrations may leave nothing but zeros.
    drawn = torch.from_numpy(source.standard_gamma(concentrations.numpy()) + np.finfo(np.float64).tiny)
    return drawn / drawn.sum(dim=1, keepdim=True)


def mixing(shares: Tensor, permutation: Tensor) -> Tensor:
    """The matrix `lam I + (1 - lam) P` of mixtures of two.

    Args:
        shares: lam, `[1]` or one for each example `[N]`.
        permutation: the partner of each example, `[N]`.

    Returns:
        `[N, N]` of the shares' type; row i holds what goes into mixed example i.
    """
    eye = torch.eye(len(permutation), dtype=shares.dtype, device=shares.device)
    return shares[:, None] * eye + (1 - shares[:, None]) * eye[permutation]


def mixed(coefficients: Tensor, values: Tensor) -> Tensor:
    """Mixtures of the rows of a tensor.

    Args:
        coefficients: `[M, N]`.
        values: `[N, ...]`.

    Returns:
        `[M, ...]` of the values' type.
    """
    return torch.einsum("mn,n...->m...", coefficients.to(values), values)
