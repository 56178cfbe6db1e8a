"""Gradient inversion for residual networks: peel what is exactly determined, search the image below it."""

import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.relu.descent import color_variation
from gradleak.attacks.residual.contrast import (
    Coordinates,
    as_it_is,
    first_statistics,
    stretched,
    unit_contrast,
)
from gradleak.attacks.residual.network import Network, read_network
from gradleak.attacks.residual.peel import Front, peel
from gradleak.attacks.residual.search import Residual, residual_of
from gradleak.attacks.residual.training_peel import peel_in_training
from gradleak.attacks.searched_targets import recovered_targets
from gradleak.clients import Gradient
from gradleak.optim import (
    Budget,
    Energy,
    LeastSquares,
    LevenbergMarquardt,
    Limits,
    Minimum,
    WolfeLBFGS,
    minimize,
    value_and_gradient,
)
from gradleak.reconstructions import History, Reconstruction
from gradleak.seeds import stage_generator
from gradleak.tasks import ImageSpace
from gradleak.threat import Observation

# Of the wall time, after which no further layer under BatchNorm in training mode is begun.
_PEELING_SHARE = 0.7
# Keeps L-BFGS' curvature above the rounding of float32.
_SCALE = 1e3


@dataclass(frozen=True)
class Schedule:
    """How the image is searched.

    Args:
        variations: weights of the total variation, one stage of L-BFGS for each.
        evaluations: of each stage, at most.
        history: of L-BFGS.
        share: of the wall time, for all these stages; the rest is for Gauss-Newton steps.
        products: Jacobian products of the Gauss-Newton steps without a limit of time; each counts as one evaluation.
    """

    variations: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    evaluations: int = 150
    history: int = 30
    share: float = 0.6
    products: int = 2_000


@dataclass(frozen=True)
class ResidualPeeling:
    """The attack of `residual_peeling`.

    Args:
        restarts: independent starts of the search.
        max_evaluations: of the search, or None.
        max_seconds: wall time, or None.
        schedule: of the search.
        name: in tables.
    """

    restarts: int = 1
    max_evaluations: int | None = None
    max_seconds: float | None = None
    schedule: Schedule = field(default_factory=Schedule)
    name: str = "residual_peeling"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        network = _network(observation)
        if isinstance(network, str):
            return not_applicable(self.name, observation, network)
        targets = recovered_targets(observation, 1, "bias_sign")
        if isinstance(targets, str) or targets is None:
            return not_applicable(self.name, observation, f"the label is unknown: {targets}")
        update = {name: tensor.double() for name, tensor in observation.update.in_gradient_direction().items()}
        rounding = observation.update.rounding
        if network.batch:
            ends = math.inf if self.max_seconds is None else began + _PEELING_SHARE * self.max_seconds
            front = peel_in_training(network, update, rounding, ends=ends)
        else:
            front = peel(network, update, rounding)
        if isinstance(front, str):
            return not_applicable(self.name, observation, front)
        like = torch.zeros((), dtype=observation.task.dtype, device=observation.task.device)
        shape = (1, *observation.task.space.shape)
        residual, image, contrast = residual_of(network, front, update, like), as_it_is, ""
        if network.batch:
            residual, image, contrast = _with_contrast(observation, network, residual, shape)
        course = self._search(observation, residual, image, seed, began, progress)
        best = int(course.values.argmin())
        left = None if self.max_evaluations is None else self.max_evaluations - 1 - course.evaluations * self.restarts
        finish = self._finish(residual, course.points[best], began, left)
        used = course.evaluations * self.restarts + finish.evaluations + finish.products
        found = image(finish.point).view(shape)
        if image is not as_it_is:
            found = stretched(observation, network, found)
        message = _message(network, front) + contrast
        result = answer(self.name, observation, found, targets, began=began, evaluations=used, message=message)
        counts = tuple(range(1, course.evaluations + 1))
        return replace(result, history=History(counts, course.times, tuple(course.trace[:, best].tolist()), ()))

    def _search(
        self,
        observation: Observation,
        residual: Residual,
        image: Coordinates,
        seed: int,
        began: float,
        progress: Progress | None,
    ) -> Minimum:
        """L-BFGS under a falling total variation, from mid-range images with a little noise."""
        task, schedule = observation.task, self.schedule
        assert isinstance(task.space, ImageSpace)
        shape, (low, high) = (1, *task.space.shape), task.space.bounds
        rows = [
            torch.randn(shape, generator=stage_generator(seed, f"attack/start/{restart}"), dtype=torch.float64)
            for restart in range(self.restarts)
        ]
        starts = 0.5 * (low + high) + 0.05 * (high - low) * torch.stack(rows)
        points = starts.flatten(1).to(task.device, task.dtype)
        stages = len(schedule.variations)
        evaluations = schedule.evaluations
        if self.max_evaluations is not None:
            evaluations = max(1, min(evaluations, self.max_evaluations // (2 * stages * self.restarts)))
        first = time.perf_counter() - began
        parts: list[tuple[float, Minimum]] = []
        for place, weight in enumerate(schedule.variations, start=1):
            now, seconds = time.perf_counter() - began, None
            if self.max_seconds is not None:
                seconds = max(0.0, first + schedule.share * (self.max_seconds - first) * place / stages - now)
            part = minimize(
                value_and_gradient(_energy(residual, image, weight, shape)),
                points,
                optimizer=WolfeLBFGS(history=schedule.history),
                budget=Budget(evaluations, seconds),
                progress=progress,
            )
            points = part.points
            parts.append((now, part))
        return replace(
            parts[-1][1],
            evaluations=sum(part.evaluations for _, part in parts),
            trace=torch.cat([part.trace for _, part in parts]),
            times=tuple(offset + moment for offset, part in parts for moment in part.times),
        )

    def _finish(self, residual: Residual, point: Tensor, began: float, left: int | None) -> LeastSquares:
        """Gauss-Newton steps without a prior, for what is left of the budget."""
        products = self.schedule.products if self.max_seconds is None and left is None else left
        seconds = None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began)
        # The last step's products may exceed the limit by two, and every step has an evaluation of its own.
        limits = Limits(None if products is None else max(0, products - products // 20 - 3), seconds)
        least = LevenbergMarquardt(dense_below=0, inner_tolerance=1e-4)
        return least.minimize(lambda at: _SCALE * residual(at), point, limits)


def _network(observation: Observation) -> Network | str:
    """The network, or why the attack does not apply."""
    if observation.update.is_empty:
        return "no evidence: every entry of the update is zero"
    if observation.batch_size != 1:
        return f"peeling is for one example, and the batch size is {observation.batch_size or 'withheld'}"
    client = observation.client
    if observation.update.kind != "gradient" or not isinstance(client, Gradient | None):
        return "peeling needs a gradient, and the update is that of local training"
    network = read_network(observation.task, observation.state)
    if isinstance(network, str):
        return f"it is not a residual network: {network}"
    normalized = any(not bool((one.gain == 1).all()) for block in network.blocks for one in block.convolutions)
    if client is None or client.mode != "train" or not normalized:
        return network
    trained = network.in_training()
    return f"it is not covered in training mode: {trained}" if isinstance(trained, str) else trained


def _with_contrast(
    observation: Observation, network: Network, known: Residual, shape: tuple[int, ...]
) -> tuple[Residual, Coordinates, str]:
    """The residual with the image's own statistics, if they were sent, else at a fixed contrast; and a clause."""
    sent = first_statistics(observation, network)
    if isinstance(sent, str):
        image = unit_contrast(network, shape)
        return lambda at: known(image(at)), image, f"; contrast such that pixels reach their bounds ({sent})"
    off, described = sent
    return lambda at: torch.cat([known(at), off(at)]), as_it_is, f"; {described}"


def _energy(residual: Residual, image: Coordinates, weight: float, shape: tuple[int, ...]) -> Energy:
    """Squared residuals and total variation."""
    return lambda at: _SCALE * (residual(at).square().sum() + weight * color_variation(image(at).view(shape)))


def _message(network: Network, front: Front) -> str:
    """What was peeled, for people."""
    layers = [convolution for block in network.blocks for convolution in block.convolutions]
    solved = len(front.account) - 1
    return f"peeled: inputs of {solved} of {len(layers)} convolutions solved, until {front.account[-1]}; searched below"


def residual_peeling(
    *, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None
) -> ResidualPeeling:
    """Rebuild one example behind a residual network with ReLU, an average pool and a linear classifier.

    Everything is exact down to the layer where the weight gradients stop determining the inputs: the masks behind the
    average pool by the algebra of shifts (see `residual.masks`), then, layer by layer, inputs from weight gradients
    that are linear in them, each with its masks checked against the bias gradient of the layer below. What remains is
    a shallow network whose output, and the cotangent at it, are known: its image is found by L-BFGS under a falling
    total variation and Gauss-Newton steps, without any second backward pass. With BatchNorm in training mode each
    input is found by Gauss-Newton (see `residual.coupled`), whether statistics are sent or not; only the image's
    contrast needs them (see `residual.contrast`).

    Args:
        restarts: of the search, whose objective is the residual; the lowest is returned.
        max_evaluations: of the search, Jacobian products counted like evaluations; None for the schedule's own.
        max_seconds: wall time, to which the search adapts; None for no limit.

    Returns:
        The attack; it says why if it does not apply, for instance to updates with noise.
    """
    return ResidualPeeling(restarts, max_evaluations, max_seconds)
