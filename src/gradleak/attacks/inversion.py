"""Optimization attacks: search the batch whose simulated update matches the observed one.

All of them are this one attack with other parts; the recipes choose the parts.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from gradleak.attacks.batch_statistics import buffer_distance
from gradleak.attacks.finite_difference import STEP, finite_difference_energy, one_by_one, problem
from gradleak.attacks.layout import Layout
from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.attacks.objectives import Objective
from gradleak.attacks.precision import in_precision
from gradleak.attacks.priors import Weighted, group_consistency
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.searched_targets import LabelPart, searched_layout
from gradleak.attacks.second_derivative import explained, lacks_derivative, no_second_derivative
from gradleak.attacks.spectrum import weighted_frequencies
from gradleak.attacks.squash import squashed
from gradleak.attacks.starts import Start, standard_normal
from gradleak.clients.stateless import recurrent
from gradleak.optim import Budget, Energy, Minimum, Optimizer, Stage, minimize_in_stages, value_and_gradient
from gradleak.optim.minimize import Evaluate
from gradleak.reconstructions import History, Reconstruction, Snapshot, Status
from gradleak.seeds import stage_generator
from gradleak.threat import Observation, simulator


@dataclass(frozen=True)
class Inversion:
    """Gradient inversion: minimize an objective over dummy inputs, and over target logits where labels are unknown.

    Args:
        name: the attack's name in tables.
        objective: distance between simulated and observed update.
        optimizer: from the number of examples to the rule that proposes candidates.
        labels: `"joint"`: one row of target logits for each example is optimized with the inputs; the others name
            the rule that recovers them first: `"row_sum_sign"` and `"bias_sign"` (single examples only),
            `"row_minimum"` (distinct labels only). On texts: `"evidence"`: as the output's bias tells them, the label
            of a single example or which tokens are targets, the rest jointly; `"next_tokens"`: those of a causal
            language model follow from the candidate itself. Given labels are used in any case.
        priors: terms added to the objective.
        buffer_weight: weight of the distance to sent buffers, see `batch_statistics.buffer_distance`; nothing happens
            where none were sent.
        group_weight: weight of the restarts' distance to their mean, see `priors.group_consistency`.
        start: from a shape and a generator to the first variable; always drawn in float64, so that float32 and
            float64 runs begin at the same point.
        pyramid: images only: sides of coarser square grids on which the image is searched first, each with its
            largest number of evaluations a restart; empty for none.
        spectrum: images only: search the image itself in weighted frequencies with this exponent, see
            `spectrum.weighted_frequencies`; None for pixels. It leaves no box.
        boxed: keep the variable inside the input space's bounds, by projection.
        squashed: keep it there by searching a free variable that is squashed into the bounds, see `squash.squashed`;
            not together with `boxed` or `spectrum`.
        precision: `"model"`: compute as the model does; `"double"`: in float64.
        derivative: `"double_backward"`: autograd differentiates the simulated update; `"finite_difference"`: central
            differences of the input gradient, see `finite_difference`, for one gradient, without a compiler.
        step: of the differences.
        restarts: independent starts, batched; the one with the lowest objective is returned.
        chunk_size: restarts evaluated together, to bound memory; None for all.
        compiler: a backend of `torch.compile` such as `"inductor"`, see `optim.value_and_gradient`; None for none.
        max_evaluations: over all restarts together; None for no limit.
        max_seconds: wall time; None for no limit.
        stop_at: stop when the objective reaches this value; None to use up the optimizer's steps.
        milestone: evaluations of a restart, and the objective that must be reached by then to go on; None for none.
        snapshots: how many best-so-far candidates to keep for pictures.
    """

    name: str
    objective: Objective
    optimizer: Callable[[int], Optimizer]
    labels: LabelPart
    priors: tuple[Weighted, ...] = ()
    buffer_weight: float = 0.0
    group_weight: float = 0.0
    start: Start = standard_normal
    pyramid: tuple[tuple[int, int], ...] = ()
    spectrum: float | None = None
    boxed: bool = False
    squashed: bool = False
    precision: Literal["model", "double"] = "model"
    derivative: Literal["double_backward", "finite_difference"] = "double_backward"
    step: float = STEP
    restarts: int = 1
    chunk_size: int | None = None
    compiler: str | None = None
    max_evaluations: int | None = None
    max_seconds: float | None = None
    stop_at: float | None = None
    milestone: tuple[int, float] | None = None
    snapshots: int = 24

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        if observation.update.is_empty:
            return not_applicable(self.name, observation, "no evidence: every entry of the update is zero")
        if observation.client is None and observation.update.kind != "gradient":
            return not_applicable(self.name, observation, "a weight delta cannot be simulated without its client")
        batch_size = observation.batch_size
        if batch_size is None:
            return not_applicable(self.name, observation, "the batch size is withheld, and this attack needs it")
        if self.precision == "double":
            observation = in_precision(observation, torch.float64)
        layout = searched_layout(observation, batch_size, self.labels)
        if isinstance(layout, str):
            return not_applicable(self.name, observation, layout)
        by_differences = self.derivative == "finite_difference"
        closed = problem(observation) if by_differences else no_second_derivative(observation, layout)
        if closed is not None:
            return not_applicable(self.name, observation, closed)
        try:
            minimum = self._minimum(observation, layout, seed, began, progress)
        except RuntimeError as error:
            if by_differences or not lacks_derivative(error):
                raise
            return not_applicable(self.name, observation, explained(error))
        return self._reconstruction(observation, layout, minimum, began)

    def _minimum(
        self, observation: Observation, layout: Layout, seed: int, began: float, progress: Progress | None
    ) -> Minimum:
        """Run the optimizer in its stages."""
        bounds = observation.task.space.bounds
        evaluator: Callable[[Energy], Evaluate] = partial(
            value_and_gradient, chunk_size=self.chunk_size, coupling=self._coupling(), compiler=self.compiler
        )
        return minimize_in_stages(
            self.energy(observation, layout),
            self.starts(layout, seed),
            self._stages(layout, bounds),
            budget=Budget(
                evaluations=None if self.max_evaluations is None else max(1, self.max_evaluations // self.restarts),
                seconds=None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began),
                target=self.stop_at,
                milestone=self.milestone,
            ),
            box=layout.box(*bounds) if self.boxed and self.spectrum is None and bounds is not None else None,
            moments=self.snapshots,
            progress=progress,
            evaluator=one_by_one
            if self.derivative == "finite_difference" or recurrent(observation.task.model)
            else evaluator,
        )

    def energy(self, observation: Observation, layout: Layout) -> Energy:
        """Objective and priors of one flat candidate `[D]`."""
        step, observed = simulator(observation), observed_tensors(observation)
        terms = [(part.weight, part.prior(observation)) for part in self.priors]
        if self.derivative == "finite_difference":

            def priors(variable: Tensor, targets: Tensor) -> Tensor:
                return torch.stack([weight * term(variable, targets) for weight, term in terms]).sum()

            return finite_difference_energy(
                observation,
                layout,
                self.objective,
                observed=observed,
                terms=priors if terms else None,
                step=self.step,
            )
        buffers = buffer_distance(observation) if self.buffer_weight else None

        def energy(candidate: Tensor) -> Tensor:
            variable, targets = layout.unpack(candidate)
            sent = step(variable, targets)
            value = self.objective(sent, observed)
            if buffers is not None:
                value = value + self.buffer_weight * buffers(sent)
            for weight, term in terms:
                value = value + weight * term(variable, targets)
            return value

        return energy

    def starts(self, layout: Layout, seed: int) -> Tensor:
        """First candidates `[restarts, D]`: inputs from `start`, logits from N(0, 1) as in the released DLG code."""
        rows: list[Tensor] = []
        for restart in range(self.restarts):
            generator = stage_generator(seed, f"attack/start/{restart}")
            variable = self.start(layout.variable_shape, generator)
            logits = torch.randn(layout.logits_shape, generator=generator, dtype=torch.float64)
            rows.append(layout.pack(variable, logits))
        return torch.stack(rows)

    def _stages(self, layout: Layout, bounds: tuple[float, float] | None) -> list[Stage]:
        """The pyramid's grids that are coarser than the image, and the image."""
        optimizer = self.optimizer(layout.variable_shape[0])
        if self.squashed and bounds is not None:
            return [Stage(optimizer, None, *squashed(layout, *bounds))]
        if len(layout.variable_shape) != 4:
            return [Stage(optimizer)]
        coarse = [
            (layout.coarser((side, side)), evaluations)
            for side, evaluations in self.pyramid
            if side < min(layout.variable_shape[2:])
        ]
        stages = [
            Stage(optimizer, evaluations, partial(grid.resized, other=layout), partial(layout.resized, other=grid))
            for grid, evaluations in coarse
        ]
        if self.spectrum is None:
            return [*stages, Stage(optimizer)]
        return [*stages, Stage(optimizer, None, *weighted_frequencies(layout, self.spectrum))]

    def _coupling(self) -> Callable[[Tensor], Tensor] | None:
        """The group term, if it counts."""
        weight = self.group_weight
        return (lambda points: weight * group_consistency(points)) if weight else None

    def _reconstruction(
        self, observation: Observation, layout: Layout, minimum: Minimum, began: float
    ) -> Reconstruction:
        """The restart with the lowest objective, decoded."""
        space = observation.task.space
        best = int(minimum.values.argmin())
        variable, targets = layout.unpack(minimum.points[best])
        objective = float(minimum.values[best])
        status, message = self._status(observation, layout, minimum, best)
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
            targets=targets.argmax(dim=-1),
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

    def _status(self, observation: Observation, layout: Layout, minimum: Minimum, best: int) -> tuple[Status, str]:
        """How the returned restart ended, and the sentence for people."""
        objective, last = float(minimum.values[best]), float(minimum.last_values[best])
        relative = mismatch(observation, *layout.unpack(minimum.points[best]))
        if not math.isfinite(last):
            return "nonfinite", "the search diverged; the best candidate before that is returned"
        if (self.stop_at is not None and objective <= self.stop_at) or relative <= REPRODUCED:
            return "converged", f"the update is reproduced to a relative squared error of {relative:.1e}"
        why = {"evaluations": "after its evaluations", "seconds": "after its seconds", "stuck": "early, being stuck,"}
        ended = why.get(minimum.reason, "after its steps")
        return "budget", f"ended {ended} at a relative squared error of {relative:.1e}"


def observed_tensors(observation: Observation) -> Mapping[str, Tensor]:
    """The update in the model's precision."""
    return {name: tensor.to(observation.task.dtype) for name, tensor in observation.update.tensors.items()}
