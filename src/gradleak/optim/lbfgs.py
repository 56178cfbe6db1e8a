"""L-BFGS without line search, operation for operation as `torch.optim.LBFGS` steps.

The released DLG loop owes its behavior to that optimizer, its divergence included. L-BFGS on a stack of restarts is
not a stack of L-BFGS runs (one curvature and one step length would couple them), so every restart runs its own.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.optim.lockstep import PointProposals, lockstep
from gradleak.optim.minimize import Box, Proposals

# torch.optim.LBFGS drops a curvature pair unless y.s exceeds this absolute number.
_CURVATURE_FLOOR = 1e-10


@dataclass(frozen=True)
class LBFGS:
    """`outer_steps` calls of a fixed-step L-BFGS with `inner_steps` steps each; the memory lives through all calls.

    Each outer step first evaluates the present point, then makes inner steps until one of the tolerances is met
    (Nocedal, Wright, *Numerical Optimization*, algorithm 7.4). All numbers default to those of `torch.optim.LBFGS`.

    Args:
        outer_steps: number of optimizer calls.
        inner_steps: largest number of steps in one call.
        lr: length of a step relative to the quasi-Newton step.
        history: number of curvature pairs kept.
        tolerance_gradient: end of a call when the largest gradient entry is at most this.
        tolerance_change: end of a call when step, slope or change of value is at most this.
        blocks: the unknowns fall into this many equal consecutive blocks, and outer step t moves block
            t mod `blocks` only, each with its own memory; 1 moves everything.
    """

    outer_steps: int = 300
    inner_steps: int = 20
    lr: float = 1.0
    history: int = 100
    tolerance_gradient: float = 1e-7
    tolerance_change: float = 1e-9
    blocks: int = 1

    def propose(self, start: Tensor, box: Box | None = None) -> Proposals:
        """See `Optimizer.propose`; a box is kept by projection after each outer step, as published loops do."""
        return lockstep(start, lambda row: self._propose_one(row, box))

    def _propose_one(self, start: Tensor, box: Box | None) -> PointProposals:
        """All outer steps from one start `[D]`."""
        size = len(start) // self.blocks
        memories = [_Memory(self.history) for _ in range(self.blocks)]
        point = start
        for outer in range(self.outer_steps):
            block = outer % self.blocks
            point = yield from self._outer_step(point, slice(block * size, (block + 1) * size), memories[block])
            if box is not None:
                point = point.clamp(*box)

    def _outer_step(
        self, point: Tensor, block: slice, memory: "_Memory"
    ) -> Generator[Tensor, tuple[Tensor, Tensor], Tensor]:
        """One optimizer call that moves one block of the unknowns; returns the point it ends at."""
        value, gradient = yield point
        gradient = gradient[block]
        if bool(gradient.abs().max() <= self.tolerance_gradient):
            return point
        for inner in range(1, self.inner_steps + 1):
            direction, length = memory.next_step(gradient, self.lr)
            if bool(gradient.dot(direction) > -self.tolerance_change):
                return point
            point = point.clone()
            point[block].add_(direction, alpha=length)
            if inner == self.inner_steps:
                return point
            previous = value
            value, gradient = yield point
            gradient = gradient[block]
            flat = gradient.abs().max() <= self.tolerance_gradient
            still = (direction * length).abs().max() <= self.tolerance_change
            same = (value - previous).abs() < self.tolerance_change
            if bool(flat | still | same):
                return point
        return point


class _Memory:
    """Curvature pairs of one restart, and the step that will make the next pair."""

    def __init__(self, history: int) -> None:
        self.steps: deque[Tensor] = deque(maxlen=history)
        self.changes: deque[Tensor] = deque(maxlen=history)
        self.inverse_curvatures: deque[Tensor] = deque(maxlen=history)
        self.scale: Tensor | float = 1.0
        self.gradient: Tensor | None = None
        self.step: Tensor | None = None

    def next_step(self, gradient: Tensor, lr: float) -> tuple[Tensor, float]:
        """Quasi-Newton direction `[D]` and its length, after learning from the last step."""
        if self.gradient is None or self.step is None:
            direction = gradient.neg()
            length = float(
                torch.clamp(1.0 / gradient.abs().sum(), max=1.0) * lr
            )  # in the tensor's own precision, as torch
        else:
            self._learn(gradient - self.gradient, self.step)
            direction = self._two_loops(gradient)
            length = lr
        self.gradient = gradient
        self.step = direction.mul(length)
        return direction, length

    def _learn(self, change: Tensor, step: Tensor) -> None:
        """Store a pair if its curvature is positive."""
        curvature = change.dot(step)
        if bool(curvature > _CURVATURE_FLOOR):
            self.steps.append(step)
            self.changes.append(change)
            self.inverse_curvatures.append(1.0 / curvature)
            self.scale = curvature / change.dot(change)

    def _two_loops(self, gradient: Tensor) -> Tensor:
        """The two-loop recursion."""
        direction = gradient.neg()
        weights: list[Tensor] = []
        # Scalars are passed as `alpha`, as torch does: it rounds differently from multiplying first.
        pairs = list(zip(self.steps, self.changes, self.inverse_curvatures, strict=True))
        for step, change, inverse in reversed(pairs):
            weight = step.dot(direction) * inverse
            direction.add_(change, alpha=-float(weight))
            weights.append(weight)
        direction = torch.mul(direction, self.scale)
        for (step, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
            direction.add_(step, alpha=float(weight - change.dot(direction) * inverse))
        return direction
