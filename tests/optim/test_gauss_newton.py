"""Levenberg-Marquardt on problems with known answers, both routes."""

import numpy
import pytest
import scipy.optimize
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradleak.optim import LevenbergMarquardt, Limits, jacobian
from gradleak.seeds import stage_generator

DENSE, FREE = LevenbergMarquardt(), LevenbergMarquardt(dense_below=0, inner_tolerance=1e-6)
ROUTES = pytest.mark.parametrize("solver", [DENSE, FREE], ids=["dense", "matrix-free"])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=stage_generator(seed, "draw"), dtype=torch.float64)


def rosenbrock(point: Tensor) -> Tensor:
    return torch.cat([10 * (point[1:] - point[:-1].square()), 1 - point[:-1]])


@ROUTES
def test_linear_problem_is_solved_like_lstsq(solver: LevenbergMarquardt) -> None:
    matrix, right = draw(30, 12), draw(30, seed=1)
    result = solver.minimize(lambda point: matrix @ point - right, torch.zeros(12, dtype=torch.float64))
    expected = torch.linalg.lstsq(matrix, right[:, None]).solution[:, 0]
    torch.testing.assert_close(result.point, expected, rtol=1e-7, atol=1e-9)
    assert result.value == pytest.approx(float((matrix @ expected - right).square().sum()), rel=1e-12)


@ROUTES
def test_rosenbrock_to_rounding_like_scipy(solver: LevenbergMarquardt) -> None:
    start = draw(8, seed=3)
    result = solver.minimize(rosenbrock, start)
    assert result.value < 1e-25

    def function(x: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        return rosenbrock(torch.as_tensor(x)).numpy()

    theirs = scipy.optimize.least_squares(function, start.numpy(), method="lm")
    torch.testing.assert_close(result.point, torch.as_tensor(theirs.x), atol=1e-6, rtol=0)


@ROUTES
def test_value_falls_and_belongs_to_the_point(solver: LevenbergMarquardt) -> None:
    result = solver.minimize(rosenbrock, draw(8, seed=4))
    assert list(result.trace) == sorted(result.trace, reverse=True)
    assert result.value == result.trace[-1] == float(rosenbrock(result.point).square().sum())


@ROUTES
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_no_absolute_tolerance(solver: LevenbergMarquardt, factor: float) -> None:
    result = solver.minimize(lambda point: factor * rosenbrock(point), draw(6, seed=5))
    assert result.value < 1e-20 * factor**2


def test_ill_conditioned_problem_needs_the_dense_route() -> None:
    left, _ = torch.linalg.qr(draw(80, 40))
    right, _ = torch.linalg.qr(draw(40, 40, seed=1))
    matrix = left @ torch.diag(torch.logspace(0, -6, 40, dtype=torch.float64)) @ right
    truth = draw(40, seed=2)

    def residual(point: Tensor) -> Tensor:
        return matrix @ (point - truth) + 0.1 * (matrix @ (point - truth)).square()

    dense = DENSE.minimize(residual, torch.zeros(40, dtype=torch.float64))
    torch.testing.assert_close(dense.point, truth, atol=1e-5, rtol=0)


def test_jacobian_by_hand() -> None:
    point = draw(7)
    found = jacobian(rosenbrock, point, chunk_size=3)
    expected = torch.zeros(12, 7, dtype=torch.float64)
    for row in range(6):
        expected[row, row], expected[row, row + 1] = -20 * point[row], 10
        expected[6 + row, row] = -1
    torch.testing.assert_close(found, expected)


@ROUTES
def test_limits(solver: LevenbergMarquardt) -> None:
    start = draw(8, seed=3)
    assert solver.minimize(rosenbrock, start, Limits(seconds=0.0)).reason == "seconds"
    ended = solver.minimize(rosenbrock, start, Limits(products=1))
    assert ended.reason == "products"
    assert 1 <= ended.products <= 2 * 8 + 2 + 200
    reached = solver.minimize(rosenbrock, start, Limits(target=1e-3))
    assert reached.reason == "target"
    assert reached.value <= 1e-3 < reached.trace[-2]


@ROUTES
def test_a_minimum_a_flat_point_and_a_point_that_is_not_finite_end_at_once(solver: LevenbergMarquardt) -> None:
    assert solver.minimize(rosenbrock, torch.ones(5, dtype=torch.float64)).value == 0
    flat = solver.minimize(lambda point: 0 * point + 1, torch.ones(5, dtype=torch.float64))
    assert (flat.reason, flat.value) == ("finished", 5.0)
    broken = solver.minimize(rosenbrock, torch.full((5,), torch.nan, dtype=torch.float64))
    assert broken.reason == "nonfinite"


@ROUTES
def test_steps_into_nothing_are_rejected(solver: LevenbergMarquardt) -> None:
    def walled(point: Tensor) -> Tensor:
        return torch.where(point.sum() > 2, torch.nan, 1) * (point - 3)

    result = solver.minimize(walled, torch.zeros(4, dtype=torch.float64))
    assert 9 < result.value < 36
    assert float(result.point.sum()) <= 2
