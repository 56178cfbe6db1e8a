"""How likely an update is, given a candidate: the law of the noise that is known to lie on it.

Noise of several sources is independent, so its variances add; the law of a sum is taken as normal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from gradleak.clients import DPSGD, Aggregate, Client
from gradleak.defenses import Defense, GaussianNoise
from gradleak.threat import Observation

Law = Literal["gaussian", "laplace"]


@runtime_checkable
class _StatesNoise(Protocol):
    """A defense that adds noise to every entry."""

    @property
    def noise_std(self) -> float: ...

    @property
    def noise_law(self) -> str: ...


@dataclass(frozen=True)
class Noise:
    """Noise on each entry of an update, independent of the others.

    Attributes:
        std: standard deviation of one entry, in the update's units; 0 for none.
        law: `"laplace"` only where one Laplace law is all there is.
    """

    std: float = 0.0
    law: Law = "gaussian"

    def plus(self, other: "Noise") -> "Noise":
        """Both, independently."""
        if not self.std or not other.std:
            return other if other.std else self
        return Noise(math.hypot(self.std, other.std))

    def cost(self, missed: Mapping[str, Tensor]) -> Tensor:
        """Minus the log likelihood times `2 std^2`, up to a constant: for a normal law the squared distance.

        Args:
            missed: simulated minus observed update by name; zero where a candidate is consistent with what was sent.

        Returns:
            `sum m^2`, or `2 std^2 sum |m| / b` with `b = std / sqrt(2)`, its corner rounded at a tenth of b.
        """
        if self.law == "gaussian" or not self.std:
            return torch.stack([miss.square().sum() for miss in missed.values()]).sum()
        scale = self.std / math.sqrt(2)
        corner = 0.1 * scale
        parts = [((miss.square() + corner**2).sqrt() - corner).sum() for miss in missed.values()]
        return 2 * self.std**2 / scale * torch.stack(parts).sum()


def known_noise(observation: Observation) -> Noise:
    """The noise that the client and the defenses, as far as they are known, add to each entry of the update."""
    found = _of_client(observation.client, observation.batch_size)
    for defense in observation.defenses or ():
        found = found.plus(_of_defense(defense))
    return found


def expected_misfit(noise: Noise, entries: int) -> float:
    """The sum of squares that noise alone leaves at the truth, with three standard deviations on top.

    For normal noise it is `std^2` times a chi-squared variable of so many degrees of freedom. Laplace noise has a
    fourth moment of `6 std^4`, so that the sum varies by `sqrt(5 entries)` in place of `sqrt(2 entries)`.

    Args:
        noise: of one entry.
        entries: number of entries of the update.

    Returns:
        In the square of the update's units.
    """
    spread = 5 if noise.law == "laplace" else 2
    return noise.std**2 * (entries + 3 * math.sqrt(spread * entries))


def _of_defense(defense: Defense) -> Noise:
    if isinstance(defense, GaussianNoise):
        return Noise(defense.std)
    if isinstance(defense, _StatesNoise):
        return Noise(defense.noise_std, "laplace" if defense.noise_law == "laplace" else "gaussian")
    return Noise()


def _of_client(client: Client | None, count: int | None) -> Noise:
    """DP-SGD adds `N(0, (sigma C)^2)` to the sum over examples, which is then divided by their number."""
    if isinstance(client, DPSGD):
        divisor = client.expected_batch_size or count or 1
        return Noise(client.noise_multiplier * client.clip / divisor)
    if isinstance(client, Aggregate) and count is not None:
        parts, total = client.parts(count), Noise()
        for member, part, share in zip(client.members, parts, client.shares(count), strict=True):
            alone = _of_client(member, len(part))
            total = total.plus(Noise(share * alone.std, alone.law))
        return total
    return Noise()
