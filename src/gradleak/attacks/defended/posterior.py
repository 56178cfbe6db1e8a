"""How probable a candidate is behind a defended update: likelihood under what is known, and a prior of photographs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.defended.likelihood import Noise, expected_misfit, known_noise
from gradleak.attacks.defended.natural_images import Implausibility, natural_images
from gradleak.clients import Simulate
from gradleak.threat import Observation, simulator

# Share of the update's squared norm that is noise up to which the prior counts in full.
_QUIET = 2e-3
# The box has the weight of a pixel that strays by this share of the bounds, in standard deviations.
_BOX = 0.02


@dataclass(frozen=True, eq=False)
class Posterior:
    """Minus the log posterior of a candidate, in units of the undefended objective.

    `phi(x) = (cost of the misfit + 2 s^2 (-log p(x))) / |h|^2` with s the noise on one entry: its minimum is that of
    `-log p(h | x) - log p(x)`, and for s = 0 it is the normalized squared distance itself.

    Attributes:
        step: simulates the update, and answers for the known defenses.
        observed: what was sent.
        norm: squared norm of that.
        noise: known to lie on it.
        prior: of the variable; None for none.
        bounds: of the variable; None for none.
    """

    step: Simulate
    observed: dict[str, Tensor]
    norm: float
    noise: Noise
    prior: Implausibility | None
    bounds: tuple[float, float] | None

    @staticmethod
    def of(observation: Observation, *, prior: bool = True) -> "Posterior":
        """The posterior of an observation, by what its attacker knows of client and defenses."""
        space = observation.task.space
        return Posterior(
            simulator(observation),
            {name: tensor.to(observation.task.dtype) for name, tensor in observation.update.tensors.items()},
            observation.update.squared_norm(),
            known_noise(observation),
            natural_images(space) if prior else None,
            space.bounds,
        )

    @property
    def level(self) -> float:
        """Variance of the noise relative to the update's squared norm."""
        return self.noise.std**2 / self.norm

    def value(self, variable: Tensor, targets: Tensor, level: float) -> Tensor:
        """`phi` with noise of another variance.

        Args:
            variable: `[N, ...]`.
            targets: probabilities `[N, C]`.
            level: `s^2 / |h|^2`; at any other than the known one the noise counts as normal.

        Returns:
            A scalar.
        """
        sent = self.step(variable, targets)
        noise = self.noise if level == self.level else Noise(math.sqrt(level * self.norm))
        value = noise.cost({name: sent[name] - tensor for name, tensor in self.observed.items()}) / self.norm
        return value if level == 0 else value + 2 * level * self.temper(level) * self.surprise(variable)

    def temper(self, level: float) -> float:
        """What the prior counts: all, but less where noise is a large share of the update.

        The most probable image is smoother than the average one, which has the least error, and the more so the less
        is known. The power was measured on LeNets with noise from 1e-3 to 1e-1.

        Args:
            level: variance of the noise relative to the update's squared norm.

        Returns:
            A factor of the prior in (0, 1].
        """
        share = level * sum(tensor.numel() for tensor in self.observed.values())
        return min(1.0, (_QUIET / share) ** 0.25) if share > 0 else 1.0

    def surprise(self, variable: Tensor) -> Tensor:
        """Minus the log prior in nats: photographs, inside the box."""
        nats = variable.new_zeros(()) if self.prior is None else self.prior(variable)
        if self.bounds is not None:
            strays = (variable - variable.clamp(*self.bounds)) / (_BOX * (self.bounds[1] - self.bounds[0]))
            nats = nats + 0.5 * strays.square().sum()
        return nats

    def misfit(self, variable: Tensor, targets: Tensor) -> float:
        """The squared distance that a candidate leaves, relative to the update's squared norm."""
        with torch.no_grad():
            sent = self.step(variable, targets)
            squares = [(sent[name] - tensor).square().sum() for name, tensor in self.observed.items()]
        return float(torch.stack(squares).sum()) / self.norm

    @property
    def expected(self) -> float:
        """The misfit that the noise alone leaves."""
        return expected_misfit(self.noise, sum(tensor.numel() for tensor in self.observed.values())) / self.norm
