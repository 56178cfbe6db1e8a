"""The hot loop: minimize one function from many starts at once, keeping the best point of each start.

An optimizer proposes points and is told values and gradients; it never evaluates anything itself. So every
evaluation is counted here, budgets hold for every optimizer alike, and the best value always belongs to the best
point.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
"""The function to minimize, for one point: `[D] -> scalar`."""

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Values `[restarts]` and gradients `[restarts, D]` at points `[restarts, D]`."""

Box = tuple[Tensor, Tensor]
"""Smallest and largest value of every unknown, each `[D]`; infinite where there is no limit."""

Proposals = Generator[Tensor, tuple[Tensor, Tensor], None]
"""Yields points `[restarts, D]`, receives their values and gradients, and returns when it has nothing to propose."""

StopReason = Literal["finished", "target", "evaluations", "seconds", "stuck", "nonfinite"]


class Optimizer(Protocol):
    """A rule that proposes points; restarts never influence each other."""

    def propose(self, start: Tensor, box: Box | None = None) -> Proposals:
        """Begin at `start` `[restarts, D]`, which is the first proposal unless it lies outside the box."""
        ...


@dataclass(frozen=True)
class Budget:
    """When to stop; each limit holds for one call of `minimize`.

    Attributes:
        evaluations: evaluations of each restart; None for no limit.
        seconds: wall time; None for no limit.
        target: stop once any restart's value is at or below this.
        milestone: evaluations of each restart, and the value that one of them must have reached by then; else they
            count as stuck, and the run stops.
        check_every: evaluations between two looks at the target and at non-finite values (each look waits for the
            device, so the loop takes few).
    """

    evaluations: int | None = None
    seconds: float | None = None
    target: float | None = None
    milestone: tuple[int, float] | None = None
    check_every: int = 10


@dataclass(frozen=True, eq=False)
class Moment:
    """The best points at one moment of a run, for pictures: evaluations so far and `[restarts, D]`."""

    evaluations: int
    points: Tensor


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a run ended.

    Attributes:
        points: best finite point of each restart `[restarts, D]`.
        values: value at those points `[restarts]`; infinite if a restart never had a finite value.
        last_values: value of the last evaluation of each restart `[restarts]`.
        evaluations: of each restart.
        seconds: wall time.
        reason: why it stopped.
        trace: value of each restart at each evaluation `[evaluations, restarts]`.
        times: seconds since the start at each evaluation.
        moments: best points at a few moments.
    """

    points: Tensor
    values: Tensor
    last_values: Tensor
    evaluations: int
    seconds: float
    reason: StopReason
    trace: Tensor
    times: tuple[float, ...]
    moments: tuple[Moment, ...]


def value_and_gradient(
    energy: Energy,
    *,
    chunk_size: int | None = None,
    coupling: Callable[[Tensor], Tensor] | None = None,
    compiler: str | None = None,
) -> Evaluate:
    """Evaluate an energy written for one point at many points at once.

    Args:
        energy: the function for one point.
        chunk_size: restarts evaluated together, to bound memory; None for all.
        coupling: a further term for each restart, `[restarts, D] -> [restarts]`, through which restarts see one
            another; each moves along the gradient of the sum over restarts.
        compiler: a backend of `torch.compile`, which costs minutes once and then gains a third on small networks: for
            runs of a hundred thousand evaluations; None for no compilation. Not together with a coupling.

    Returns:
        A function from points `[restarts, D]` to values and gradients. A single restart is evaluated without
        `vmap`, with the same operations as a plain loop.
    """
    if compiler is not None and coupling is None:
        # Transforms of a compiled function do not work, so the whole evaluation is compiled.
        each = torch.vmap(torch.func.grad_and_value(energy), chunk_size=chunk_size)
        compiled = torch.compile(each, backend=compiler)

        def evaluate_compiled(points: Tensor) -> tuple[Tensor, Tensor]:
            gradients, values = compiled(points)
            return values, gradients

        return evaluate_compiled

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        leaf = points.detach().requires_grad_()
        values = energy(leaf[0])[None] if len(leaf) == 1 else torch.vmap(energy, chunk_size=chunk_size)(leaf)
        if coupling is not None:
            values = values + coupling(leaf)
        (gradients,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradients

    return evaluate


def minimize(
    evaluate: Evaluate,
    start: Tensor,
    *,
    optimizer: Optimizer,
    budget: Budget,
    box: Box | None = None,
    moments: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Minimum:
    """Run an optimizer from every start until it ends or the budget is spent.

    Args:
        evaluate: values and gradients, see `value_and_gradient`.
        start: `[restarts, D]`.
        optimizer: what proposes the points.
        budget: when to stop.
        box: limits that the optimizer keeps by projection.
        moments: how many records of the best points to keep, at evaluation counts that grow geometrically.
        progress: called with the evaluations so far and the best value whenever the loop looks at its state.

    Returns:
        The best point of each restart with the value of that same point.
    """
    began = time.perf_counter()
    proposals = optimizer.propose(start, box)
    points = next(proposals)
    best_points = start.clone()
    best_values = torch.full((len(start),), torch.inf, dtype=start.dtype, device=start.device)
    trace: list[Tensor] = []
    times: list[float] = []
    kept: list[Moment] = []
    next_moment = 1.0
    reason: StopReason = "finished"
    while True:
        values, gradients = evaluate(points)
        count = len(trace) + 1
        better = values < best_values  # never true for NaN
        best_values = torch.where(better, values, best_values)
        best_points = torch.where(better[:, None], points, best_points)
        trace.append(values)
        times.append(time.perf_counter() - began)
        if moments and count >= next_moment:
            kept.append(Moment(count, best_points))
            next_moment = max(count + 1.0, next_moment * 10 ** (3.5 / moments))
        spent = _spent(budget, count, times[-1], values, best_values, progress)
        if spent is not None:
            reason = spent
            break
        try:
            points = proposals.send((values, gradients))
        except StopIteration:
            break
    if moments:
        kept.append(Moment(len(trace), best_points))
    return Minimum(
        best_points, best_values, values, len(trace), times[-1], reason, torch.stack(trace), tuple(times), tuple(kept)
    )


def _spent(
    budget: Budget,
    count: int,
    seconds: float,
    values: Tensor,
    best_values: Tensor,
    progress: Callable[[int, float], None] | None,
) -> StopReason | None:
    """The reason to stop now, if there is one."""
    if budget.evaluations is not None and count >= budget.evaluations:
        return "evaluations"
    if budget.seconds is not None and seconds >= budget.seconds:
        return "seconds"
    if count % budget.check_every == 0:
        best = float(best_values.min())
        if progress is not None:
            progress(count, best)
        if not bool(torch.isfinite(values).any()):
            return "nonfinite"
        if budget.target is not None and best <= budget.target:
            return "target"
        if budget.milestone is not None and count >= budget.milestone[0] and best > budget.milestone[1]:
            return "stuck"
    return None
