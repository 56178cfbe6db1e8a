"""Batches under BatchNorm: the whole step is simulated in the client's mode, with batch statistics matched beside it.

Statistics enter in one of two ways: where the client sent its buffers and its steps are known, the simulated buffers
are compared with the sent ones, which costs no further pass; else a prior holds the candidate's statistics near those
that stand in (Yin et al. 2021, equation 9).
"""

import time
from dataclasses import dataclass, field, replace

from torch import Tensor

from gradleak.attacks.batch_statistics import (
    BatchStatistics,
    Policy,
    Source,
    StatisticsPrior,
    buffer_distance,
    inferred_statistics,
    running_statistics,
)
from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.image_search import counted_targets, gray_starts, image_search_problem
from gradleak.attacks.objectives import cosine_distance
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.relu.descent import Descent, descend
from gradleak.attacks.relu.mask_derivative import MaskDerivative
from gradleak.errors import refuse
from gradleak.optim import Energy
from gradleak.reconstructions import History, Reconstruction
from gradleak.tasks import ImageSpace
from gradleak.threat import Observation, simulator

_EVALUATIONS = 1_500


@dataclass(frozen=True)
class BatchNormInversion:
    """The attack of `batch_norm_inversion`.

    Args:
        policy: `"inferred"`, `"running"`, `"estimated"` or `"given"`, or None for no statistics.
        source: where statistics come from; None only without a policy.
        weight: of the statistics against the cosine distance of the update.
        restarts: independent starts.
        max_evaluations: over all of them, or None.
        max_seconds: wall time, or None.
        derivative: of the masks of ReLU.
        descent: of the search.
        name: in tables.
    """

    policy: Policy | None
    source: Source | None
    weight: float = 10.0
    restarts: int = 1
    max_evaluations: int | None = None
    max_seconds: float | None = None
    derivative: MaskDerivative = field(default_factory=lambda: MaskDerivative(beta=5.0, pool_beta=30.0))
    descent: Descent = field(default_factory=lambda: Descent(first_weight=0.1, last_weight=0.003))
    name: str = "batch_norm_inversion"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        statistics = None if self.source is None else self.source(observation)
        targets = counted_targets(observation, seed)
        for reason in (image_search_problem(observation), statistics, targets):
            if isinstance(reason, str):
                return not_applicable(self.name, observation, reason)
        assert isinstance(targets, Tensor)
        task = observation.task
        assert isinstance(task.space, ImageSpace)
        shape, (low, high) = (len(targets), *task.space.shape), task.space.bounds
        energy, how = self._energy(
            observation, targets, statistics if isinstance(statistics, BatchStatistics) else None
        )
        starts = gray_starts(shape, (low, high), self.restarts, seed)
        evaluations = _EVALUATIONS if self.max_seconds is None else 10**9
        if self.max_evaluations is not None:
            evaluations = max(1, (self.max_evaluations - 1) // self.restarts)
        minimum = descend(
            energy,
            starts.to(task.device, task.dtype),
            shape,
            settings=self.descent,
            bounds=(low, high),
            evaluations=evaluations,
            seconds=None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began),
            progress=progress,
            snapshots=0,
        )
        best = int(minimum.values.argmin())
        result = answer(
            self.name,
            observation,
            minimum.points[best].view(shape),
            targets,
            began=began,
            evaluations=minimum.evaluations * self.restarts,
            message=how,
        )
        counts = tuple(range(1, minimum.evaluations + 1))
        return replace(
            result, trace=(how,), history=History(counts, minimum.times, tuple(minimum.trace[:, best].tolist()), ())
        )

    def _energy(
        self, observation: Observation, targets: Tensor, statistics: BatchStatistics | None
    ) -> tuple[Energy, str]:
        """The objective of one flat batch, and a clause on what stands for the batch statistics."""
        step = self.derivative.wrap(simulator(observation))
        task = observation.task
        observed = {name: tensor.to(task.dtype) for name, tensor in observation.update.tensors.items()}
        shape = (len(targets), *task.space.variable_shape)
        buffers = buffer_distance(observation) if self.policy == "inferred" else None
        prior = None
        how = "batch statistics: none used"
        if statistics is not None:
            how = statistics.describe() + (", sent buffers matched" if buffers is not None else "")
            if buffers is None:
                prior = StatisticsPrior(lambda _observation: statistics)(observation)

        def energy(candidate: Tensor) -> Tensor:
            variable = candidate.view(shape)
            sent = step(variable, targets)
            value = cosine_distance(sent, observed)
            if buffers is not None:
                value = value + self.weight * buffers(sent)
            if prior is not None:
                value = value + self.weight * prior(variable, targets)
            return value

        return energy, how


def batch_norm_inversion(
    *,
    policy: Policy | None = "inferred",
    source: Source | None = None,
    weight: float = 10.0,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
) -> BatchNormInversion:
    """Search a batch under BatchNorm, with batch statistics matched beside the update; its message names their policy.

    Args:
        policy: `"inferred"` from sent buffers, `"running"` ones as a proxy, or None to use none; `"estimated"` and
            `"given"` need a `source`.
        source: `estimated_statistics(inputs)`, `given_statistics(...)`; None for the policy's own.
        weight: of the statistics.
        restarts: independent starts; the one with the lowest objective is returned.
        max_evaluations: over all restarts together; None for 1,500 a restart if `max_seconds` is None too.
        max_seconds: wall time, to which the schedules adapt; None for no limit.

    Returns:
        The attack.

    Raises:
        BadInput: for `"estimated"` or `"given"` without a source.
    """
    known: dict[str, Source] = {"inferred": inferred_statistics, "running": running_statistics}
    if policy is not None and source is None:
        if policy not in known:
            refuse(
                [f"source: expected one for policy {policy!r}, got none; give estimated_statistics(inputs) or the like"]
            )
        source = known[policy]
    return BatchNormInversion(policy, source, weight, restarts, max_evaluations, max_seconds)
