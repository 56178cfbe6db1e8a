"""The joint search of images and latent noise."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.inversion import observed_tensors
from gradleak.attacks.layout import Layout
from gradleak.attacks.objectives import normalized_squared_distance
from gradleak.attacks.protocol import Progress
from gradleak.attacks.spectrum import weighted_frequencies
from gradleak.bottleneck import bottlenecks
from gradleak.clients import Gradient
from gradleak.optim import Budget, LevenbergMarquardt, Limits, Minimum, WolfeLBFGS, minimize, value_and_gradient
from gradleak.optim.stages import Coordinates, unchanged
from gradleak.seeds import stage_generator
from gradleak.threat import Observation, responder

# Up to which share of a restart's budget the noise is held near its law, and then the images and noise are searched
# freely; least squares have the rest.
_HELD, _FREE = 0.4, 0.7
# Evaluations for which Gauss-Newton steps are not begun.
_FEW = 20
_EXPLAINED = 1e-15

Simulate = Callable[[Tensor, Tensor, Mapping[str, Tensor]], dict[str, Tensor]]
"""From variable, target probabilities and draws to what is compared with the update."""


@dataclass(frozen=True, eq=False)
class LatentSearch:
    """Images and noise in one flat vector, images in weighted frequencies.

    Attributes:
        observation: in float64.
        layout: of the images.
        shapes: of the noise, by the name of the buffer that takes it.
        simulate: see `Simulate`.
        targets: `[N, C]`.
        prior_weight: of the noise's mean square, while it is held near its law.
        exponent: of the weighted frequencies.
    """

    observation: Observation
    layout: Layout
    shapes: Mapping[str, torch.Size]
    simulate: Simulate
    targets: Tensor
    prior_weight: float
    exponent: float

    @staticmethod
    def of(
        observation: Observation, client: Gradient, targets: Tensor, prior_weight: float, spectrum: float
    ) -> "LatentSearch":
        """For an observation in float64."""
        step, sent = client.bind_draws(observation.task, observation.state)
        respond = responder(observation)
        layout = Layout.of(observation, len(targets), targets)
        draws = step.draws(torch.zeros(layout.variable_shape, dtype=targets.dtype, device=targets.device))
        places = tuple(bottlenecks(observation.task.model))
        shapes = {name: draw.shape for name, draw in draws.items() if name.startswith(places)}

        def simulate(variable: Tensor, targets: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return respond(sent(variable, targets, draws))

        return LatentSearch(observation, layout, shapes, simulate, targets, prior_weight, spectrum)

    @property
    def pixels(self) -> int:
        """How many coordinates are the images'."""
        return math.prod(self.layout.variable_shape)

    def parted(self, point: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Variable `[N, *variable_shape]` and noise by name."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        noise = point[self.pixels :].split(sizes)
        variable = self._coordinates()[0](point[: self.pixels]).view(self.layout.variable_shape)
        return variable, {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), noise, strict=True)
        }

    def value(self, variable: Tensor, draws: Mapping[str, Tensor]) -> float:
        """The objective without the prior."""
        with torch.no_grad():
            return float(self._distance(variable, draws))

    def packed(self, variable: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """The flat vector."""
        image = self._coordinates()[1](variable.flatten().to(self.targets))
        return torch.cat([image, *(draws[name].flatten().to(image) for name in self.shapes)])

    def start(self, restart: int, seed: int) -> Tensor:
        """Mid-grey, with noise that tells examples and restarts apart, and no latent noise."""
        shape = self.layout.variable_shape
        drawn = torch.randn(shape, generator=stage_generator(seed, f"attack/start/{restart}"), dtype=torch.float64)
        spread = 0.1 if restart or shape[0] > 1 else 0.0
        return self.packed(0.5 + spread * drawn, {name: torch.zeros(shape) for name, shape in self.shapes.items()})

    def round(
        self,
        restart: int,
        seed: int,
        begun: Tensor | None,
        evaluations: int,
        seconds: float | None,
        progress: Progress | None,
    ) -> tuple[Tensor, int, list[Minimum]]:
        """One start: the noise near its law, then free, then Gauss-Newton steps; the first from what was read.

        Returns:
            The point, evaluations, and the courses of the first two.
        """
        began = time.perf_counter()
        point, courses = self.start(restart, seed), list[Minimum]()
        stages = ((_HELD, self.prior_weight), (_FREE, 0.0))
        if begun is not None and restart == 0:
            point, stages = begun, stages[1:]
        for share, weight in stages:
            spent = time.perf_counter() - began
            limit = None if seconds is None else max(0.0, seconds * share - spent)
            used = sum(course.evaluations for course in courses)
            budget = Budget(evaluations=max(1, int(evaluations * share) - used), seconds=limit, target=_EXPLAINED)
            courses.append(self._run(point, weight, budget, progress))
            point = courses[-1].points[0]
        used = sum(course.evaluations for course in courses)
        left = evaluations - used
        limit = None if seconds is None else max(0.0, seconds - (time.perf_counter() - began))
        if left < _FEW or limit == 0.0:
            return point, used, courses
        finish = LevenbergMarquardt(dense_below=0, steps=200).minimize(
            self._residual, point, Limits(products=left - _FEW // 2, seconds=limit, target=_EXPLAINED)
        )
        return finish.point, used + finish.evaluations + finish.products, courses

    def _run(self, point: Tensor, weight: float, budget: Budget, progress: Progress | None) -> Minimum:
        def energy(point: Tensor) -> Tensor:
            variable, draws = self.parted(point)
            return self._distance(variable, draws) + weight * point[self.pixels :].square().mean()

        return minimize(
            value_and_gradient(energy), point[None], optimizer=WolfeLBFGS(), budget=budget, progress=progress
        )

    def _distance(self, variable: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return normalized_squared_distance(
            self.simulate(variable, self.targets, draws), observed_tensors(self.observation)
        )

    def _residual(self, point: Tensor) -> Tensor:
        observed = observed_tensors(self.observation)
        variable, draws = self.parted(point)
        simulated = self.simulate(variable, self.targets, draws)
        size = torch.cat([value.flatten() for value in observed.values()]).norm()
        return torch.cat([(simulated[name] - value).flatten() for name, value in observed.items()]) / size

    def _coordinates(self) -> tuple[Coordinates, Coordinates]:
        if len(self.layout.variable_shape) != 4:
            return unchanged, unchanged
        return weighted_frequencies(self.layout, self.exponent)
