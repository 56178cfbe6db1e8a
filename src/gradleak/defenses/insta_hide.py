"""InstaHide: the client trains on mixtures of k private images whose pixels have random signs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.defenses.mixup import dirichlet, mixed
from gradleak.tasks import ImageSpace, InputSpace
from gradleak.updates import UpdateKind

# Draws of a row of shares before its bound counts as out of reach; the least likely accepted settings need about 20.
_MOST_DRAWS = 10_000


@dataclass(frozen=True)
class InstaHide:
    """Mix k private images, then flip the sign of every pixel at random (Huang et al., ICML 2020; the intra variant).

    Each encoding takes its own image and k - 1 others of the batch, by k - 1 permutations that never agree: the same
    distances on a random circle of the batch. Shares are Dirichlet(3, 1, ..., 1), drawn again until none exceeds
    `largest`; targets are mixed with the same shares. Signs are those of what the model receives: after the space's
    mean and std. Batches of fewer than k examples mix all that they have; a single image is not mixed, only its signs
    are drawn.

    Of the released settings, the concentrations and the bound of 0.65 are taken from descriptions of the code and not
    checked against it. The inter variant, which mixes public images in, is not there.

    Args:
        k: images in an encoding, at least 1.
        largest: bound of a share, above 1/k and at most 1; it does not apply where only one image is mixed.
        own: concentration of the first image.
        others: concentration of each other one.
    """

    k: int = 4
    largest: float = 0.65
    own: float = 3.0
    others: float = 1.0

    @property
    def mixes_targets(self) -> bool:
        """Targets become soft."""
        return self.k > 1

    def problems(self) -> list[str]:
        """Settings outside their range."""
        found: list[str] = []
        if self.k < 1:
            found.append(f"InstaHide.k: expected at least 1 image, got {self.k}; 4 is usual")
        elif self.k > 1 and not 1 / self.k < self.largest <= 1:
            found.append(
                f"InstaHide.largest: expected a share above 1/k = {1 / self.k:.3g} and at most 1, got {self.largest}; "
                "0.65 is usual"
            )
        for name, value in (("own", self.own), ("others", self.others)):
            if not 0 < value < float("inf"):
                found.append(f"InstaHide.{name}: expected a finite concentration above 0, got {value}; 1 is even")
        return found

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The update as it is: the batch was changed."""
        del kind, generator
        return dict(tensors)

    def coefficients(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the share of every private image in every encoding.

        Args:
            count: number of examples N.
            generator: decides permutations and shares.

        Returns:
            `[N, N]`, float64, rows sum to 1.
        """
        k = min(self.k, count)
        circle = torch.randperm(count, generator=generator)
        distances = [0, *(1 + torch.randperm(count - 1, generator=generator)[: k - 1]).tolist()]
        shares = self._shares(count, k, generator)
        found = torch.zeros((count, count), dtype=torch.float64)
        for column, distance in enumerate(distances):
            # The example at each place of the circle takes the one that lies so far ahead.
            found[circle, circle.roll(-distance)] = shares[:, column]
        return found

    def _shares(self, count: int, k: int, generator: torch.Generator) -> Tensor:
        concentrations = torch.full((count, k), self.others, dtype=torch.float64)
        concentrations[:, 0] = self.own
        shares = dirichlet(concentrations, generator)
        # Where fewer than k are mixed, the bound that was asked for may be below an even share.
        bound = max(self.largest, 1 / k + 0.05) if k > 1 else 1.0
        for _ in range(_MOST_DRAWS):
            over = shares.max(dim=1).values > bound
            if not bool(over.any()):
                return shares
            shares[over] = dirichlet(concentrations[over], generator)
        # Even shares obey every bound; settings that come here almost never draw anything that does.
        return torch.where((shares.max(dim=1).values > bound)[:, None], 1 / k, shares)

    def change_batch(
        self, variable: Tensor, target_probabilities: Tensor, space: InputSpace, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The encodings; see `ChangesBatch.change_batch`. They may leave the bounds of the space."""
        coefficients = self.coefficients(len(variable), generator)
        mixtures = received(mixed(coefficients, variable), space)
        signs = 2 * torch.randint(2, mixtures.shape, generator=generator) - 1
        return unreceived(signs.to(mixtures) * mixtures, space), mixed(coefficients, target_probabilities)


def received(variable: Tensor, space: InputSpace) -> Tensor:
    """What the model gets to see of a variable `[N, ...]`: images after mean and std, all else as it is."""
    if not isinstance(space, ImageSpace):
        return variable
    mean, std = _normalization(variable, space)
    return (variable - mean) / std


def unreceived(values: Tensor, space: InputSpace) -> Tensor:
    """The variable `[N, ...]` of which the model receives given values; the inverse of `received`."""
    if not isinstance(space, ImageSpace):
        return values
    mean, std = _normalization(values, space)
    return values * std + mean


def _normalization(like: Tensor, space: ImageSpace) -> tuple[Tensor, Tensor]:
    mean = torch.tensor(space.mean, dtype=like.dtype, device=like.device).view(-1, 1, 1)
    return mean, torch.tensor(space.std, dtype=like.dtype, device=like.device).view(-1, 1, 1)
