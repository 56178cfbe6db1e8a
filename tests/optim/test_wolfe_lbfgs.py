"""Strong-Wolfe L-BFGS: the conditions themselves, scale-freedom, isolation, and scipy as a second opinion."""

from collections.abc import Callable

import numpy
import pytest
import scipy.optimize
import torch
from torch import Tensor

from gradleak.optim import Budget, Minimum, StrongWolfe, WolfeLBFGS, minimize, value_and_gradient
from gradleak.optim.line_search import Trial
from gradleak.optim.wolfe_lbfgs import CompactMemory
from gradleak.seeds import stage_generator


def rosenbrock(point: Tensor) -> Tensor:
    return (100 * (point[1:] - point[:-1].square()).square() + (1 - point[:-1]).square()).sum()


def starts(count: int, size: int = 12) -> Tensor:
    return torch.randn((count, size), generator=stage_generator(4, "starts"), dtype=torch.float64)


def one_by_one(points: Tensor) -> tuple[Tensor, Tensor]:
    pairs = [value_and_gradient(rosenbrock)(point[None]) for point in points]
    return torch.cat([value for value, _ in pairs]), torch.cat([gradient for _, gradient in pairs])


def run(start: Tensor, evaluations: int = 2000, **settings: int) -> Minimum:
    optimizer = WolfeLBFGS(history=settings.get("history", 30))
    return minimize(one_by_one, start, optimizer=optimizer, budget=Budget(evaluations=evaluations))


@pytest.mark.parametrize("history", [3, 12, 40])
def test_reaches_the_minimum_to_rounding_and_ends_by_itself(history: int) -> None:
    result = run(starts(3), history=history)
    torch.testing.assert_close(result.points, torch.ones(3, 12, dtype=torch.float64), atol=1e-12, rtol=0)
    assert result.reason == "finished"
    assert result.evaluations < 400


def test_needs_about_as_many_evaluations_as_torch() -> None:
    counts: list[int] = []
    for start in starts(5):
        point = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [point], max_iter=500, history_size=30, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0
        )
        values: list[float] = []

        def closure(
            point: Tensor = point, optimizer: torch.optim.LBFGS = optimizer, values: list[float] = values
        ) -> Tensor:
            optimizer.zero_grad()
            value = rosenbrock(point)
            value.backward()
            values.append(float(value.detach()))
            return value

        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
        counts.append(next(index for index, value in enumerate(values) if value < 1e-10))
    ours = [int((run(start[None]).trace[:, 0] < 1e-10).nonzero()[0, 0]) for start in starts(5)]
    assert sum(ours) < 1.15 * sum(counts)


def test_multiplying_the_function_by_a_power_of_two_changes_no_bit() -> None:
    def scaled(factor: float) -> Tensor:
        evaluate = value_and_gradient(lambda point: factor * rosenbrock(point))
        return minimize(evaluate, starts(2), optimizer=WolfeLBFGS(), budget=Budget(evaluations=50)).points

    assert torch.equal(scaled(1.0), scaled(2.0**-60))
    assert torch.equal(scaled(1.0), scaled(2.0**40))


def test_perturbing_one_restart_leaves_the_others_bit_identical() -> None:
    for disturbance in (100.0, torch.nan):
        disturbed = starts(3)
        disturbed[1] = disturbance
        clean, dirty = run(starts(3), 40), run(disturbed, 40)
        assert torch.equal(clean.trace[:, [0, 2]], dirty.trace[: len(clean.trace), [0, 2]])


def test_value_never_rises_from_step_to_step_even_on_a_cliff() -> None:
    def cliff(point: Tensor) -> Tensor:
        return torch.log(2 - point.square().sum()).neg() + (point - 0.7).square().sum()

    start = torch.zeros((1, 2), dtype=torch.float64)
    result = minimize(value_and_gradient(cliff), start, optimizer=WolfeLBFGS(first_move=100.0), budget=Budget())

    def function(x: numpy.ndarray) -> float:
        return float(cliff(torch.as_tensor(x)))

    reference = scipy.optimize.minimize(function, [0.0, 0.0], method="Nelder-Mead")
    assert float(result.values[0]) <= reference.fun + 1e-9


def test_box_minimum_agrees_with_scipy() -> None:
    low, high = torch.full((12,), -0.5, dtype=torch.float64), torch.full((12,), 0.8, dtype=torch.float64)
    result = minimize(one_by_one, starts(3), optimizer=WolfeLBFGS(), budget=Budget(evaluations=500), box=(low, high))

    def function(x: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        value, gradient = one_by_one(torch.as_tensor(x)[None])
        return float(value[0]), gradient[0].numpy()

    for start, value in zip(starts(3), result.values.tolist(), strict=True):
        begin = start.clamp(-0.5, 0.8).numpy()
        theirs = scipy.optimize.minimize(function, begin, jac=True, method="L-BFGS-B", bounds=[(-0.5, 0.8)] * 12)
        assert value == pytest.approx(theirs.fun, rel=1e-6)
    assert float(result.points.max()) <= 0.8


@pytest.mark.parametrize("seed", range(4))
def test_direction_is_that_of_the_two_loop_recursion(seed: int) -> None:
    generator = stage_generator(seed, "pairs")
    spectrum = torch.logspace(0, 3, 20, dtype=torch.float64)
    memory = CompactMemory(20, 6, spectrum)
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(9):
        step = torch.randn(20, generator=generator, dtype=torch.float64)
        pairs.append((step, spectrum * step))
        memory.learn(*pairs[-1])
    gradient = torch.randn(20, generator=generator, dtype=torch.float64)
    vector, weights = gradient.clone(), list[Tensor]()
    for step, change in reversed(pairs[-6:]):
        weights.append(step.dot(vector) / step.dot(change))
        vector = vector - weights[-1] * change
    vector = vector * pairs[-1][0].dot(pairs[-1][1]) / pairs[-1][1].square().sum()
    for (step, change), weight in zip(pairs[-6:], reversed(weights), strict=True):
        vector = vector + step * (weight - change.dot(vector) / step.dot(change))
    torch.testing.assert_close(memory.direction(gradient), -vector, rtol=1e-9, atol=1e-12)


def test_pairs_without_positive_curvature_are_not_stored() -> None:
    memory = CompactMemory(3, 5, torch.zeros(3))
    memory.learn(torch.ones(3), -torch.ones(3))
    memory.learn(torch.ones(3), torch.tensor([1.0, -1.0, 0.0]))
    memory.learn(torch.ones(3), torch.full((3,), torch.nan))
    assert memory.count == 0
    memory.learn(1e-20 * torch.ones(3), 1e-10 * torch.ones(3))
    assert memory.count == 1


def parabola(t: Tensor) -> Tensor:
    return (t - 3) ** 2


def wavy(t: Tensor) -> Tensor:
    return torch.cos(t) + 0.1 * (t - 4) ** 2


def flat_tail(t: Tensor) -> Tensor:
    """The first test function of More and Thuente (1994)."""
    return -t / (t**2 + 2)


@pytest.mark.parametrize("first", [1e-6, 0.1, 1.0, 30.0, 1e5])
@pytest.mark.parametrize("function", [parabola, wavy, flat_tail])
def test_accepted_steps_meet_both_conditions(function: Callable[[Tensor], Tensor], first: float) -> None:
    def at(length: float) -> tuple[Tensor, Tensor]:
        point = torch.tensor([length], dtype=torch.float64, requires_grad=True)
        value = function(point).sum()
        (slope,) = torch.autograd.grad(value, point)
        return value.detach(), slope

    value, slope = at(0.0)
    zero = torch.zeros(1, dtype=torch.float64)
    start = Trial(0.0, float(value), float(slope), zero, slope)
    search = StrongWolfe(curvature=0.1).search(start, first, lambda length: (zero + length, zero + 1))
    point = next(search)
    found: Trial | None = None
    met = False
    try:
        while True:
            point = search.send(at(float(point)))
    except StopIteration as end:
        found, met = end.value
    assert met
    assert found is not None
    assert found.value <= start.value + 1e-4 * found.length * start.slope
    assert abs(found.slope) <= 0.1 * abs(start.slope)
