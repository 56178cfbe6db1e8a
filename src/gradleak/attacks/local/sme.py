"""Surrogate model extension (Zhu, Yao, Blaschko, ICML 2023): images and a point of the path, searched together."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.local.door import known_targets
from gradleak.attacks.mismatch import mismatch
from gradleak.attacks.objectives import cosine_distance
from gradleak.attacks.priors import mean_absolute_differences
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.starts import Start, standard_normal
from gradleak.attacks.surrogate import path_scale, surrogate_client, surrogate_gradient
from gradleak.clients import Aggregate, Client
from gradleak.clients.settings import StepSettings
from gradleak.clients.step import bound_step
from gradleak.optim import Adam, Budget, Energy, minimize, tenfold_drops, value_and_gradient
from gradleak.reconstructions import History, Reconstruction, Snapshot
from gradleak.seeds import stage_generator
from gradleak.threat import Observation

LR = 1.0
ALPHA_LR = 1e-3
ALPHA_START = 0.5
STEPS = 1000
TOTAL_VARIATION = 0.01


@dataclass(frozen=True)
class SurrogateModelExtension:
    """Adam on images and alpha with cosine and total variation; see `sme`.

    Args:
        steps: of Adam.
        total_variation_weight: of the mean of the two mean absolute differences.
        lr: of the images.
        alpha_lr: of alpha.
        boxed: keep the images inside the bounds.
        start: of the images.
        restarts: independent starts, batched.
        max_evaluations: over all restarts together.
        max_seconds: wall time.
        snapshots: how many candidates to keep for pictures.
        name: the attack's name in tables.
    """

    steps: int = STEPS
    total_variation_weight: float = TOTAL_VARIATION
    lr: float = LR
    alpha_lr: float = ALPHA_LR
    boxed: bool = True
    start: Start = standard_normal
    restarts: int = 1
    max_evaluations: int | None = None
    max_seconds: float | None = None
    snapshots: int = 24
    name: str = "sme"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        reason = self._door(observation)
        trace: list[str] = []
        targets = known_targets(observation, trace) if reason is None else reason
        if isinstance(targets, str):
            return not_applicable(self.name, observation, targets)
        shape = (len(targets), *observation.task.space.variable_shape)
        ended = minimize(
            value_and_gradient(self.energy(observation, targets, shape)),
            self._starts(observation, shape, seed),
            optimizer=Adam(steps=self.steps, lr=self.lr, schedule=tenfold_drops),
            budget=Budget(
                evaluations=None if self.max_evaluations is None else max(1, self.max_evaluations // self.restarts),
                seconds=None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began),
            ),
            box=self.box(observation, shape),
            moments=self.snapshots,
            progress=progress,
        )
        best = int(ended.values.argmin())
        variable, alpha = self.unpack(ended.points[best], shape)
        at_alpha = surrogate_gradient(observation, min(max(float(alpha), 0.0), 1.0))
        error = mismatch(at_alpha, variable, targets)
        measure = "cosine distance" if at_alpha.update.kind == "delta" else "relative squared error"
        space = observation.task.space
        return Reconstruction(
            inputs=space.decode(variable),
            targets=targets.argmax(dim=1),
            targets_given=observation.targets is not None,
            objective=float(ended.values[best]),
            evaluations=ended.evaluations * self.restarts,
            seconds=time.perf_counter() - began,
            status="budget" if math.isfinite(float(ended.last_values[best])) else "nonfinite",
            attack=self.name,
            variable=variable,
            target_probabilities=targets,
            message=(
                f"one gradient at alpha {float(alpha):.3f} of the path stands for all local steps, with a {measure} of "
                f"{error:.1e}"
            ),
            history=History(
                tuple(range(1, ended.evaluations + 1)),
                ended.times,
                tuple(ended.trace[:, best].tolist()),
                tuple(
                    Snapshot(moment.evaluations, space.decode(self.unpack(moment.points[best], shape)[0]))
                    for moment in ended.moments
                ),
            ),
            trace=tuple(trace),
        )

    def _door(self, observation: Observation) -> str | None:
        """Why this attack does not apply, or None."""
        if observation.update.is_empty:
            return "no evidence: every entry of the update is zero"
        if observation.update.kind != "delta":
            return "it is for weight deltas of local training; a gradient needs no surrogate"
        if observation.batch_size is None:
            return "the batch size is withheld, and the number of images is not searched"
        if len(observation.task.space.variable_shape) != 3:
            return "total variation is for images"
        scale = path_scale(observation)
        return scale if isinstance(scale, str) else None

    def energy(self, observation: Observation, targets: Tensor, shape: tuple[int, ...]) -> Energy:
        """Cosine distance between the gradient at alpha and `w_before - w_after`, and total variation."""
        gradient = gradient_on_path(observation)
        observed = {
            name: tensor.to(observation.task.dtype)
            for name, tensor in observation.update.in_gradient_direction().items()
        }

        def energy(candidate: Tensor) -> Tensor:
            variable, alpha = self.unpack(candidate, shape)
            variation = 0.5 * mean_absolute_differences(variable)
            distance = cosine_distance(gradient(alpha, variable, targets), observed)
            return distance + self.total_variation_weight * variation

        return energy

    def unpack(self, candidate: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Images and alpha of a flat candidate, whose last entry is alpha in units that turn `lr` into `alpha_lr`."""
        return candidate[:-1].view(shape), candidate[-1] * (self.alpha_lr / self.lr)

    def _starts(self, observation: Observation, shape: tuple[int, ...], seed: int) -> Tensor:
        middle = torch.tensor([ALPHA_START * self.lr / self.alpha_lr], dtype=torch.float64)
        rows = [
            torch.cat([self.start(shape, stage_generator(seed, f"attack/start/{restart}")).flatten(), middle])
            for restart in range(self.restarts)
        ]
        return torch.stack(rows).to(observation.task.device, observation.task.dtype)

    def box(self, observation: Observation, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Alpha's bounds, and those of the images if they are kept."""
        bounds = observation.task.space.bounds
        ends: list[Tensor] = []
        for side, alpha in ((0, 0.0), (1, self.lr / self.alpha_lr)):
            free = (-torch.inf, torch.inf)[side]
            limit = bounds[side] if self.boxed and bounds is not None else free
            ends.append(torch.cat([torch.full((math.prod(shape),), limit), torch.tensor([alpha])]))
        task = observation.task
        return ends[0].to(task.device, task.dtype), ends[1].to(task.device, task.dtype)


def gradient_on_path(observation: Observation) -> Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]:
    """The gradient of the whole private batch at a share alpha of the path, differentiable by alpha too.

    Args:
        observation: of a weight delta.

    Returns:
        From alpha, variable `[N, ...]` and target probabilities to the gradient, by name.
    """
    settings = _settings(surrogate_client(observation.client))
    step = bound_step(settings, observation.task, observation.state, all_trained=False)
    delta = {name: tensor.to(observation.task.dtype) for name, tensor in observation.update.tensors.items()}

    def gradient(alpha: Tensor, variable: Tensor, targets: Tensor) -> dict[str, Tensor]:
        weights = {name: value + alpha * delta[name] for name, value in step.parameters.items()}
        return step(weights, step.buffers, variable, targets).gradients

    return gradient


def _settings(client: Client) -> StepSettings:
    """How a client, or the first one of an aggregate, makes a step."""
    while isinstance(client, Aggregate):
        client = client.clients[0]
    assert isinstance(client, StepSettings)  # as `surrogate_client` makes them
    return client


def sme(
    *,
    steps: int = STEPS,
    total_variation_weight: float = TOTAL_VARIATION,
    lr: float = LR,
    alpha_lr: float = ALPHA_LR,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> SurrogateModelExtension:
    """Surrogate model extension (Zhu, Yao, Blaschko 2023) with the released numbers.

    One gradient at `(1 - alpha) w_before + alpha w_after` stands for the whole local training: images and alpha are
    searched together for the smallest cosine distance of that gradient to `w_before - w_after`, plus 0.01 times half
    the sum of the mean absolute differences. Adam with lr 1 for the images and 1e-3 for alpha, which starts at 1/2 and
    stays in [0, 1]; both learning rates a tenth after 3/8, 5/8 and 7/8 of 1000 steps (for a ViT: `lr=0.1`). It needs
    neither the learning rate nor the number of steps. Labels are given, or recovered where the client is known.
    The start N(0, 1) and the projection of the images onto their bounds are ours.

    Args:
        steps: of Adam; fewer if `max_evaluations` allows only fewer, so that the schedule still ends.
        total_variation_weight: see above.
        lr: of the images.
        alpha_lr: of alpha.
        restarts: independent starts.
        max_evaluations: over all restarts together; one evaluation costs one gradient of the whole private batch.
        max_seconds: wall time.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack, for weight deltas of local SGD, also of unknown clients.
    """
    if max_evaluations is not None:
        steps = max(1, min(steps, max_evaluations // restarts - 1))
    return SurrogateModelExtension(
        steps=steps,
        total_variation_weight=total_variation_weight,
        lr=lr,
        alpha_lr=alpha_lr,
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )
