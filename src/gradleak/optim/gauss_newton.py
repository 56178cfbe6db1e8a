"""Levenberg-Marquardt for nonlinear least squares: the last digits, where first-order methods stall.

Knows nothing but a residual function. Small problems are solved with the dense Jacobian, large ones without ever
forming it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Residual = Callable[[Tensor], Tensor]
"""From a point `[D]` to residuals `[P]`, differentiable twice."""

EndReason = Literal["finished", "target", "products", "seconds", "steps", "nonfinite"]


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Where a run ended.

    Attributes:
        point: lowest point `[D]`.
        value: sum of squared residuals there.
        trace: that sum at the start and after each accepted step.
        evaluations: residuals computed.
        products: products with the Jacobian or its transpose; a dense Jacobian counts D of them.
        seconds: wall time.
        reason: why it ended.
    """

    point: Tensor
    value: float
    trace: tuple[float, ...]
    evaluations: int
    products: int
    seconds: float
    reason: EndReason


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        products: Jacobian products; a dense Jacobian or the first two products of a step may exceed it.
        seconds: wall time, checked before each product (dense: before each chunk of columns).
        target: sum of squares that is low enough.
    """

    products: int | None = None
    seconds: float | None = None
    target: float = 0.0


class _Linear(Protocol):
    """The residual's linearization at one point."""

    products: int
    gradient: Tensor
    curvature: float

    def solve(self, damping: float, allowed: float) -> Tensor:
        """The step `[D]` with `(J^T J + damping I) step = -J^T r`, as nearly as the `allowed` products permit."""
        ...

    def reduction(self, step: Tensor, damping: float) -> float:
        """By how much the damped model says that the step lowers the sum of squares."""
        ...


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Damped Gauss-Newton steps with Nielsen's damping rule (Madsen, Nielsen, Tingleff 2004, algorithm 3.16).

    Args:
        steps: largest number of tried steps.
        dense_below: problems with at most so many unknowns get the dense Jacobian and a Cholesky factorization.
        first_damping: first damping relative to the curvature along the gradient.
        inner_products: conjugate-gradient steps for one Levenberg-Marquardt step; two products each.
        inner_tolerance: relative residual at which the conjugate gradients stop.
        chunk_size: columns of the dense Jacobian computed together.
    """

    steps: int = 50
    dense_below: int = 4000
    first_damping: float = 1e-3
    inner_products: int = 100
    inner_tolerance: float = 1e-3
    chunk_size: int = 64

    def minimize(self, residual: Residual, start: Tensor, limits: Limits | None = None) -> LeastSquares:
        """Lower the sum of squared residuals from one start.

        Args:
            residual: see `Residual`.
            start: `[D]`; its dtype is that of all computations.
            limits: when to stop; None for no limit but `steps`.

        Returns:
            The lowest point and the course.
        """
        limits = limits or Limits()
        began = time.perf_counter()
        ends = math.inf if limits.seconds is None else began + limits.seconds
        point = start.detach()
        value = _sum_of_squares(residual, point)
        trace, products, evaluations = [value], 0, 1
        damping, growth, linear, counted = -1.0, 2.0, None, 0
        reason: EndReason = "nonfinite" if not math.isfinite(value) else "steps"
        for _ in range(self.steps if math.isfinite(value) else 0):
            stop = _limit(limits, value, products, ends)
            if stop is not None:
                reason = stop
                break
            if linear is None:
                linear, counted = self._linearize(residual, point, ends), 0
                if linear is None:
                    reason = "seconds"
                    break
                if not linear.curvature > 0:
                    reason = "finished"
                    break
                if damping < 0:
                    damping = self.first_damping * linear.curvature
            spent = products + linear.products - counted
            step = linear.solve(damping, math.inf if limits.products is None else limits.products - spent)
            promised = linear.reduction(step, damping)
            products, counted = products + linear.products - counted, linear.products
            if promised <= 0 or bool((point + step == point).all()):
                reason = _limit(limits, value, products, ends) or "finished"
                break
            lowered = _sum_of_squares(residual, point + step)
            evaluations += 1
            if lowered < value:
                gain = (value - lowered) / promised
                damping *= max(0.1, 1 - (2 * gain - 1) ** 3)
                point, value, growth, linear = point + step, lowered, 2.0, None
                trace.append(value)
            else:
                damping, growth = damping * growth, 2 * growth
        return LeastSquares(point, value, tuple(trace), evaluations, products, time.perf_counter() - began, reason)

    def _linearize(self, residual: Residual, point: Tensor, ends: float) -> _Linear | None:
        """The dense route or the other; None if the dense one does not end in time."""
        if len(point) <= self.dense_below:
            record = _Record(residual, point)
            matrix = record.jacobian(self.chunk_size, ends)
            return None if matrix is None else _Dense(record.residual, matrix)
        return _MatrixFree(residual, point, self.inner_products, self.inner_tolerance, ends)


def jacobian(residual: Residual, point: Tensor, chunk_size: int = 64) -> Tensor:
    """The dense Jacobian of a residual function.

    Args:
        residual: see `Residual`.
        point: where, `[D]`.
        chunk_size: columns computed together.

    Returns:
        `[P, D]`.
    """
    matrix = _Record(residual, point).jacobian(chunk_size)
    assert matrix is not None
    return matrix


class _Record:
    """A residual recorded once as a graph; each product with its Jacobian is one backward pass through that graph.

    Forward differentiation would need fewer operations, but has to run the residual anew for every product.
    """

    def __init__(self, residual: Residual, point: Tensor) -> None:
        self._point = point.detach().requires_grad_()
        recorded = residual(self._point)
        self._residual = recorded
        self.residual = recorded.detach()
        self._dual = torch.zeros_like(recorded, requires_grad=True)
        # J^T u is linear in u, and its derivative along v is J v.
        (self._pulled,) = torch.autograd.grad(recorded, self._point, self._dual, create_graph=True)

    def transposed(self, dual: Tensor) -> Tensor:
        """`J^T dual`, `[D]`."""
        return torch.autograd.grad(self._residual, self._point, dual, retain_graph=True)[0]

    def forward(self, direction: Tensor) -> Tensor:
        """`J direction`, `[P]`."""
        return torch.autograd.grad(
            self._pulled, self._dual, direction, retain_graph=True, allow_unused=True, materialize_grads=True
        )[0]

    def jacobian(self, chunk_size: int, ends: float = math.inf) -> Tensor | None:
        """J, `[P, D]`; None if the clock reaches `ends` before it is complete."""
        size = len(self._point)
        columns = torch.empty((size, len(self._residual)), dtype=self._point.dtype, device=self._point.device)
        for first in range(0, size, chunk_size):
            if time.perf_counter() >= ends:
                return None
            last = min(first + chunk_size, size)
            directions = torch.zeros((last - first, size), dtype=columns.dtype, device=columns.device)
            directions[:, first:last].fill_diagonal_(1)
            columns[first:last] = torch.autograd.grad(
                self._pulled,
                self._dual,
                directions,
                retain_graph=True,
                is_grads_batched=True,
                allow_unused=True,
                materialize_grads=True,
            )[0]
        return columns.T


class _Dense:
    """Linearization with the Jacobian in memory."""

    def __init__(self, residual: Tensor, matrix: Tensor) -> None:
        self.products = matrix.shape[1]
        self.gradient = matrix.T @ residual
        self._normal = matrix.T @ matrix
        self.curvature = _ratio(self.gradient.dot(self._normal @ self.gradient), self.gradient)

    def solve(self, damping: float, allowed: float) -> Tensor:
        del allowed
        damped = self._normal.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):  # singular to rounding: a step that the caller rejects, so that it damps more
            return torch.full_like(self.gradient, torch.nan)
        return torch.cholesky_solve(-self.gradient[:, None], factor)[:, 0]

    def reduction(self, step: Tensor, damping: float) -> float:
        del damping
        return float(-2 * step.dot(self.gradient) - step.dot(self._normal @ step))


class _MatrixFree:
    """Linearization of which only products are computed."""

    def __init__(self, residual: Residual, point: Tensor, limit: int, tolerance: float, ends: float) -> None:
        self._record = _Record(residual, point)
        self._limit, self._tolerance, self._ends = limit, tolerance, ends
        self.products = 2
        self.gradient = self._record.transposed(self._record.residual)
        self.curvature = _ratio(self._record.forward(self.gradient).square().sum(), self.gradient)

    def solve(self, damping: float, allowed: float) -> Tensor:
        """Conjugate gradients on the normal equations, in the form that keeps the residual (CGLS)."""
        step, remaining = torch.zeros_like(self.gradient), -self._record.residual
        descent = -self.gradient
        direction, size = descent, descent.dot(descent)
        goal = self._tolerance**2 * size
        for _ in range(min(self._limit, int(min(allowed + 1, 2 * self._limit)) // 2)):
            if bool(size <= goal) or time.perf_counter() >= self._ends:
                break
            image = self._record.forward(direction)
            length = size / (image.dot(image) + damping * direction.dot(direction))
            step = step + length * direction
            remaining = remaining - length * image
            descent = self._record.transposed(remaining) - damping * step
            self.products += 2
            previous, size = size, descent.dot(descent)
            direction = descent + (size / previous) * direction
        return step

    def reduction(self, step: Tensor, damping: float) -> float:
        # Stopped early or not, conjugate gradients leave step . (A step + gradient) = 0 with A = J^T J + damping I.
        return float(-step.dot(self.gradient) + damping * step.dot(step))


def _ratio(numerator: Tensor, vector: Tensor) -> float:
    """A number divided by the squared norm of a vector; zero for a zero vector."""
    size = float(vector.dot(vector))
    return float(numerator) / size if size > 0 else 0.0


def _sum_of_squares(residual: Residual, point: Tensor) -> float:
    with torch.no_grad():
        return float(residual(point).square().sum())


def _limit(limits: Limits, value: float, products: int, ends: float) -> EndReason | None:
    """The limit that is reached, if any."""
    if value <= limits.target:
        return "target"
    if limits.products is not None and products >= limits.products:
        return "products"
    return "seconds" if time.perf_counter() >= ends else None
