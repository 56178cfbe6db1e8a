"""L-BFGS with a strong-Wolfe line search: no divergence, no absolute tolerance, an optional box.

Every restart keeps its own curvature and its own step; only the evaluation is shared.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradleak.optim.line_search import StrongWolfe, Trial
from gradleak.optim.lockstep import PointProposals, lockstep
from gradleak.optim.minimize import Box, Proposals


@dataclass(frozen=True)
class WolfeLBFGS:
    """Limited-memory BFGS (Liu, Nocedal 1989) in its compact form (Byrd, Nocedal, Schnabel 1994, theorem 2.2).

    Multiplying the function by a power of two leaves every proposed point as it is, bit for bit. A restart ends when
    no step along the steepest descent lowers its function any more, which in practice means rounding.

    Args:
        steps: largest number of accepted steps; None for no limit.
        history: number of curvature pairs kept.
        first_move: largest entry of the first trial step, in units of the unknowns (a gradient alone has no length
            scale).
        line_search: conditions and limits of the search.
    """

    steps: int | None = None
    history: int = 30
    first_move: float = 0.1
    line_search: StrongWolfe = field(default_factory=StrongWolfe)

    def propose(self, start: Tensor, box: Box | None = None) -> Proposals:
        """See `Optimizer.propose`; a box is kept by projection."""
        # Entries at a bound that the gradient pushes outward stay there for the step, the others stop where they meet
        # a bound (Bertsekas 1982).
        return lockstep(start, lambda row: self._propose_one(row, box))

    def _propose_one(self, start: Tensor, box: Box | None) -> PointProposals:
        """All steps from one start `[D]`."""
        point = start if box is None else start.clamp(*box)
        first_value, gradient = yield point
        value = float(first_value)
        memory = CompactMemory(len(start), self.history, start)
        taken = 0
        while self.steps is None or taken < self.steps:
            found = yield from self._step(value, point, gradient, memory, box)
            if found is None and memory.count:
                memory.clear()
                continue
            if found is None:
                return
            memory.learn(found.point - point, found.gradient - gradient)
            point, value, gradient = found.point, found.value, found.gradient
            taken += 1

    def _step(
        self, value: float, point: Tensor, gradient: Tensor, memory: "CompactMemory", box: Box | None
    ) -> Generator[Tensor, tuple[Tensor, Tensor], Trial | None]:
        """One line search; returns None if it found nothing lower."""
        free = None if box is None else _free(point, gradient, box)
        downhill = gradient if free is None else gradient * free
        direction = memory.direction(downhill)
        if free is not None:
            direction = direction * free
        slope, largest = torch.stack([downhill.dot(direction), direction.abs().max()]).tolist()
        if not slope < 0:  # rounding, a flat point, or a gradient that is not finite
            return None

        def move(length: float) -> tuple[Tensor, Tensor]:
            there = point.add(direction, alpha=length)
            if box is None:
                return there, direction
            inside = there.clamp(*box)
            return inside, torch.where(inside == there, direction, 0)

        first = 1.0 if memory.count else self.first_move / largest
        found, _ = yield from self.line_search.search(Trial(0.0, value, slope, point, gradient), first, move)
        return found if found.value < value else None


def _free(point: Tensor, gradient: Tensor, box: Box) -> Tensor:
    """1 where an unknown may move, 0 where it is held at its bound `[D]`."""
    low, high = box
    held = ((point <= low) & (gradient > 0)) | ((point >= high) & (gradient < 0))
    return (~held).to(point.dtype)


class CompactMemory:
    """Curvature pairs of one restart, and the inverse Hessian that they stand for.

    With steps S and changes Y as rows and R the upper triangle of `S Y^T`, the inverse Hessian is
    `H = c I + [S^T, c Y^T] [[R^-T (D + c Y Y^T) R^-1, -R^-T], [-R^-1, 0]] [S; c Y]`. So one product with the stored
    rows gives all inner products of an update and of a direction, and a second one the direction.

    Args:
        size: D.
        history: largest number of pairs; the oldest is overwritten.
        like: a tensor whose dtype and device the rows get.
    """

    def __init__(self, size: int, history: int, like: Tensor) -> None:
        self._rows = torch.zeros((2 * history, size), dtype=like.dtype, device=like.device)
        self._history = history
        self._order: list[int] = []
        self._inner: NDArray[numpy.float64] = numpy.zeros((2 * history, 2 * history))
        # Below this cosine between step and change, their product is rounding.
        self._floor = float(torch.finfo(like.dtype).eps)

    @property
    def count(self) -> int:
        """Number of pairs held."""
        return len(self._order)

    def clear(self) -> None:
        """Forget every pair."""
        self._order = []

    def learn(self, step: Tensor, change: Tensor) -> None:
        """Store a pair `[D]`, `[D]`, unless its curvature is not positive beyond rounding."""
        curvature, length, growth = torch.stack([step.dot(change), step.norm(), change.norm()]).tolist()
        if not curvature > self._floor * length * growth:
            return
        if len(self._order) == self._history:
            slot = self._order.pop(0)
        else:
            slot = next(index for index in range(self._history) if index not in self._order)
        self._order.append(slot)
        places = (slot, self._history + slot)
        for place, row in zip(places, (step, change), strict=True):
            self._rows[place] = row
        products = (self._rows @ torch.stack([step, change], dim=1)).double().cpu().numpy()
        for place, column in zip(places, products.T, strict=True):
            self._inner[place, :] = self._inner[:, place] = column

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian times a gradient `[D]`; minus the gradient while nothing is known."""
        if not self._order:
            return gradient.neg()
        steps = numpy.array(self._order)
        changes = steps + self._history
        products = (self._rows @ gradient).double().cpu().numpy()
        curvatures = numpy.triu(self._inner[numpy.ix_(steps, changes)])
        last = changes[-1]
        scale = float(curvatures[-1, -1] / self._inner[last, last])
        first = numpy.linalg.solve(curvatures, products[steps])
        middle = numpy.diag(curvatures) * first + scale * (
            self._inner[numpy.ix_(changes, changes)] @ first - products[changes]
        )
        weights = numpy.zeros(2 * self._history)
        weights[steps] = numpy.linalg.solve(curvatures.T, middle)
        weights[changes] = -scale * first
        combination = torch.as_tensor(weights, dtype=gradient.dtype, device=gradient.device) @ self._rows
        return combination.add_(gradient, alpha=scale).neg_()
