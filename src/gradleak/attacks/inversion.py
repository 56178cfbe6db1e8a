"""Optimization attacks: search the batch whose simulated update matches the observed one.

All of them are this one attack with other parts; the recipes choose the parts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradleak.attacks.head import find_head
from gradleak.attacks.labels import row_sum_sign
from gradleak.attacks.objectives import Objective
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.optim import Budget, Energy, Minimum, Optimizer, minimize, value_and_gradient
from gradleak.reconstructions import History, Reconstruction, Snapshot, Status
from gradleak.seeds import stage_generator
from gradleak.threat import Observation, simulator

LabelPart = Literal["joint", "row_sum_sign"]

# An update is called reproduced when the squared distance is below this share of the update's squared norm.
_REPRODUCED = 1e-6


def standard_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Start from independent N(0, 1) draws in pixel units (Zhu, Liu, Han 2019, algorithm 1)."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Inversion:
    """Gradient inversion: minimize an objective over dummy inputs, and over target logits where labels are unknown.

    Args:
        name: the attack's name in tables.
        objective: distance between simulated and observed update.
        optimizer: from the number of examples to the rule that proposes candidates.
        labels: `"joint"`: one row of target logits for each example is optimized with the inputs; `"row_sum_sign"`:
            recovered first (single examples only). Given labels are used in either case.
        start: from a shape and a generator to the first variable; always drawn in float64, so that float32 and
            float64 runs begin at the same point.
        restarts: independent starts, batched; the one with the lowest objective is returned.
        max_evaluations: over all restarts together; None for no limit.
        max_seconds: wall time; None for no limit.
        stop_at: stop when the objective reaches this value; None to use up the optimizer's steps.
        snapshots: how many best-so-far candidates to keep for pictures.
    """

    name: str
    objective: Objective
    optimizer: Callable[[int], Optimizer]
    labels: LabelPart
    start: Callable[[tuple[int, ...], torch.Generator], Tensor] = standard_normal
    restarts: int = 1
    max_evaluations: int | None = None
    max_seconds: float | None = None
    stop_at: float | None = None
    snapshots: int = 24

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        if observation.update.is_empty:
            return not_applicable(self.name, observation, "no evidence: every entry of the update is zero")
        if observation.client is None and observation.update.kind != "gradient":
            return not_applicable(self.name, observation, "a weight delta cannot be simulated without its client")
        if observation.batch_size is None:
            return not_applicable(self.name, observation, "the batch size is withheld, and this attack needs it")
        fixed_targets = self._fixed_targets(observation)
        if isinstance(fixed_targets, str):
            return not_applicable(self.name, observation, fixed_targets)
        layout = _Layout(observation, observation.batch_size, fixed_targets)
        minimum = minimize(
            value_and_gradient(self._energy(observation, layout)),
            self._starts(layout, seed),
            optimizer=self.optimizer(observation.batch_size),
            budget=Budget(
                evaluations=None if self.max_evaluations is None else max(1, self.max_evaluations // self.restarts),
                seconds=None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began),
                target=self.stop_at,
            ),
            moments=self.snapshots,
            progress=progress,
        )
        return self._reconstruction(observation, layout, minimum, began)

    def _fixed_targets(self, observation: Observation) -> Tensor | None | str:
        """Target probabilities `[N, C]` that are not optimized, None if they are, or why they cannot be had."""
        task = observation.task
        if observation.targets is not None:
            return task.target_probabilities(observation.targets)
        if self.labels == "joint":
            return None
        if observation.batch_size != 1:
            return f"the sign rule finds the label of one example, and the batch has {observation.batch_size}"
        head = find_head(task, observation.state)
        if head is None:
            return "the sign rule needs a linear classifier at the model's output, and there is none"
        label = row_sum_sign(observation.update.in_gradient_direction()[head.weight])
        return task.target_probabilities(torch.tensor([label]))

    def _energy(self, observation: Observation, layout: "_Layout") -> Energy:
        """The objective of one flat candidate `[D]`."""
        step = simulator(observation)
        observed = {name: tensor.to(observation.task.dtype) for name, tensor in observation.update.tensors.items()}

        def energy(candidate: Tensor) -> Tensor:
            variable, targets = layout.unpack(candidate)
            return self.objective(step(variable, targets), observed)

        return energy

    def _starts(self, layout: "_Layout", seed: int) -> Tensor:
        """First candidates `[restarts, D]`: inputs from `start`, logits from N(0, 1) as in the released DLG code."""
        rows: list[Tensor] = []
        for restart in range(self.restarts):
            generator = stage_generator(seed, f"attack/start/{restart}")
            variable = self.start(layout.variable_shape, generator)
            logits = torch.randn(layout.logits_shape, generator=generator, dtype=torch.float64)
            rows.append(layout.pack(variable, logits))
        return torch.stack(rows)

    def _reconstruction(
        self, observation: Observation, layout: "_Layout", minimum: Minimum, began: float
    ) -> Reconstruction:
        """The restart with the lowest objective, decoded."""
        space = observation.task.space
        best = int(minimum.values.argmin())
        variable, targets = layout.unpack(minimum.points[best])
        objective = float(minimum.values[best])
        status, message = self._status(observation, minimum, best)
        history = History(
            tuple(range(1, minimum.evaluations + 1)),
            minimum.times,
            tuple(minimum.trace[:, best].tolist()),
            tuple(
                Snapshot(moment.evaluations, space.decode(layout.unpack(moment.points[best])[0]))
                for moment in minimum.moments
            ),
        )
        return Reconstruction(
            inputs=space.decode(variable),
            targets=targets.argmax(dim=1),
            targets_given=observation.targets is not None,
            objective=objective,
            evaluations=minimum.evaluations * self.restarts,
            seconds=time.perf_counter() - began,
            status=status,
            attack=self.name,
            variable=variable,
            target_probabilities=targets,
            message=message,
            history=history,
        )

    def _status(self, observation: Observation, minimum: Minimum, best: int) -> tuple[Status, str]:
        """How the returned restart ended, and the sentence for people."""
        objective, last = float(minimum.values[best]), float(minimum.last_values[best])
        relative = objective / observation.update.squared_norm()
        if last != last or last in {float("inf"), float("-inf")}:
            return "nonfinite", "the search diverged; the best candidate before that is returned"
        if (self.stop_at is not None and objective <= self.stop_at) or relative <= _REPRODUCED:
            return "converged", f"the update is reproduced to a relative squared error of {relative:.1e}"
        ended = {"evaluations": "evaluations", "seconds": "seconds"}.get(minimum.reason, "steps")
        return "budget", f"ended after its {ended} at a relative squared error of {relative:.1e}"


class _Layout:
    """How a batch of unknowns lies in one flat vector: example after example, each its variable and then its logits.

    With one example this is the order in which the released DLG code hands its unknowns to the optimizer.
    """

    def __init__(self, observation: Observation, batch_size: int, fixed_targets: Tensor | None) -> None:
        task = observation.task
        self.variable_shape = (batch_size, *task.space.variable_shape)
        self.fixed_targets = fixed_targets
        self.logits_shape = (batch_size, task.num_classes if fixed_targets is None else 0)
        self.dtype, self.device = task.dtype, task.device

    def pack(self, variable: Tensor, logits: Tensor) -> Tensor:
        """Flat vector `[D]` of a variable `[N, ...]` and logits `[N, C or 0]`."""
        return torch.cat([variable.flatten(1), logits], dim=1).flatten().to(self.device, self.dtype)

    def unpack(self, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Variable `[N, ...]` and target probabilities `[N, C]` of a flat vector `[D]`."""
        rows = candidate.view(self.variable_shape[0], -1)
        size = rows.shape[1] - self.logits_shape[1]
        variable = rows[:, :size].reshape(self.variable_shape)
        if self.fixed_targets is not None:
            return variable, self.fixed_targets
        return variable, torch.softmax(rows[:, size:], dim=-1)
