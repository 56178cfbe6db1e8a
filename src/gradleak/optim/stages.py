"""Coarse to fine: minimize one function over growing families of points, each start being the last result."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.optim.minimize import (
    Box,
    Budget,
    Energy,
    Evaluate,
    Minimum,
    Moment,
    Optimizer,
    minimize,
    value_and_gradient,
)

Coordinates = Callable[[Tensor], Tensor]
"""A map of one point, `[D] -> [E]`, usable under `vmap`."""


def unchanged(point: Tensor) -> Tensor:
    """The full point as its own coordinates."""
    return point


@dataclass(frozen=True, eq=False)
class Stage:
    """One family of points, and how to search it.

    Attributes:
        optimizer: proposes points of this stage.
        evaluations: at most so many of each restart in this stage; None leaves it to the optimizer and the budget.
        expand: from this stage's coordinates to the full point.
        restrict: from a full point to the coordinates at which this stage starts.
    """

    optimizer: Optimizer
    evaluations: int | None = None
    expand: Coordinates = unchanged
    restrict: Coordinates = unchanged


def minimize_in_stages(
    energy: Energy,
    start: Tensor,
    stages: Sequence[Stage],
    *,
    budget: Budget,
    box: Box | None = None,
    moments: int = 0,
    progress: Callable[[int, float], None] | None = None,
    evaluator: Callable[[Energy], Evaluate] = value_and_gradient,
) -> Minimum:
    """Run the stages in turn under one budget.

    Args:
        energy: the function of one full point.
        start: full points `[restarts, D]`.
        stages: at least one.
        budget: of all stages together; its milestone holds for a single stage only.
        box: limits of the full point; a stage keeps their restriction, so its `expand` must not overshoot.
        moments: as in `minimize`, for each stage.
        progress: as in `minimize`; the count runs through all stages.
        evaluator: makes one stage's energy into what `minimize` takes.

    Returns:
        The full points where the last stage ended, with the course of all stages.
    """
    began = time.perf_counter()
    points, used = start, 0
    parts: list[tuple[float, Minimum]] = []
    for stage in stages:
        offset = time.perf_counter() - began
        left = Budget(
            _least(stage.evaluations, None if budget.evaluations is None else budget.evaluations - used),
            None if budget.seconds is None else budget.seconds - offset,
            budget.target,
            budget.milestone if len(stages) == 1 else None,
            budget.check_every,
        )
        part = minimize(
            evaluator(_in_coordinates(energy, stage.expand)),
            _each(stage.restrict, points),
            optimizer=stage.optimizer,
            budget=left,
            box=None if box is None else (stage.restrict(box[0]), stage.restrict(box[1])),
            moments=moments,
            progress=_shifted(progress, used),
        )
        points = _each(stage.expand, part.points)
        kept = [Moment(used + moment.evaluations, _each(stage.expand, moment.points)) for moment in part.moments]
        parts.append((offset, replace(part, points=points, moments=tuple(kept))))
        used += part.evaluations
        over = budget.evaluations is not None and used >= budget.evaluations
        if over or part.reason in {"seconds", "target", "stuck", "nonfinite"}:
            break
    return _joined(parts)


def _in_coordinates(energy: Energy, expand: Coordinates) -> Energy:
    """The energy of the full point that coordinates stand for."""
    return lambda coordinates: energy(expand(coordinates))


def _each(change: Coordinates, points: Tensor) -> Tensor:
    """The map of every restart's point."""
    return torch.stack([change(point) for point in points])


def _joined(parts: Sequence[tuple[float, Minimum]]) -> Minimum:
    """The course of all stages; points and values are those of the last."""
    last = parts[-1][1]
    times = tuple(offset + seconds for offset, part in parts for seconds in part.times)
    return replace(
        last,
        evaluations=len(times),
        seconds=times[-1],
        trace=torch.cat([part.trace for _, part in parts]),
        times=times,
        moments=tuple(moment for _, part in parts for moment in part.moments),
    )


def _shifted(progress: Callable[[int, float], None] | None, used: int) -> Callable[[int, float], None] | None:
    """The same report, counting the evaluations of earlier stages."""
    return None if progress is None else lambda count, best: progress(used + count, best)


def _least(one: int | None, other: int | None) -> int | None:
    """The smaller of two limits."""
    return min((limit for limit in (one, other) if limit is not None), default=None)
