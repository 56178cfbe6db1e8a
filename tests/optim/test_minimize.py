"""The hot loop: budgets, best-so-far, isolation of restarts."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gradleak.optim import LBFGS, Adam, Box, Budget, Proposals, minimize, value_and_gradient
from gradleak.seeds import stage_generator

TARGET = torch.linspace(-1, 2, 6, dtype=torch.float64)
SCALES = torch.tensor([1.0, 2.0, 5.0, 1.0, 3.0, 0.5], dtype=torch.float64)


def bowl(point: Tensor) -> Tensor:
    return (SCALES * (point - TARGET).square()).sum() + (point - TARGET).pow(4).sum()


def starts(count: int) -> Tensor:
    return torch.randn((count, 6), generator=stage_generator(3, "starts"), dtype=torch.float64)


@dataclass(frozen=True)
class Scripted:
    """Proposes given points, one after the other, whatever it is told."""

    points: tuple[Tensor, ...]

    def propose(self, start: Tensor, box: Box | None = None) -> Proposals:
        yield start
        for point in self.points:  # noqa: UP028  # a tuple's iterator cannot be sent to
            yield point


def test_lbfgs_finds_the_minimum_of_a_convex_function() -> None:
    result = minimize(value_and_gradient(bowl), starts(4), optimizer=LBFGS(outer_steps=6, lr=0.5), budget=Budget())
    torch.testing.assert_close(result.points, TARGET.expand(4, 6), atol=1e-4, rtol=0)
    assert result.reason == "finished"


def test_best_value_belongs_to_the_best_point() -> None:
    result = minimize(value_and_gradient(bowl), starts(3), optimizer=LBFGS(outer_steps=3), budget=Budget())
    for point, value in zip(result.points, result.values, strict=True):
        assert float(bowl(point)) == float(value)
    assert torch.equal(result.values, result.trace.min(dim=0).values)


def test_best_point_is_kept_when_later_ones_are_worse_or_not_finite() -> None:
    points = tuple(torch.full((1, 1), value, dtype=torch.float64) for value in (1.0, 5.0, torch.nan, 7.0))
    result = minimize(
        value_and_gradient(lambda x: x.square().sum()),
        torch.full((1, 1), 3.0, dtype=torch.float64),
        optimizer=Scripted(points),
        budget=Budget(),
    )
    assert result.points.item() == 1.0
    assert result.values.item() == 1.0
    assert result.evaluations == 5
    assert result.last_values.item() == 49.0


def test_the_third_of_three_restarts_wins_although_the_first_is_not_a_number() -> None:
    result = minimize(
        value_and_gradient(lambda x: x.sum()),
        torch.tensor([[torch.nan], [5.0], [1.0]]),
        optimizer=Scripted(()),
        budget=Budget(),
    )
    assert int(result.values.argmin()) == 2
    assert float(result.values[0]) == torch.inf


def test_perturbing_one_restart_leaves_the_others_bit_identical() -> None:
    one, other = starts(3), starts(3)
    other[1] = 100.0
    runs = [
        minimize(value_and_gradient(bowl), start, optimizer=LBFGS(outer_steps=5, history=4), budget=Budget())
        for start in (one, other)
    ]
    assert torch.equal(runs[0].points[[0, 2]], runs[1].points[[0, 2]])
    assert not torch.equal(runs[0].points[1], runs[1].points[1])


def test_a_restart_that_is_not_finite_does_not_spread() -> None:
    spoiled = starts(3)
    spoiled[1] = torch.nan
    clean = minimize(value_and_gradient(bowl), starts(3), optimizer=LBFGS(outer_steps=4), budget=Budget())
    dirty = minimize(value_and_gradient(bowl), spoiled, optimizer=LBFGS(outer_steps=4), budget=Budget())
    assert torch.equal(clean.points[[0, 2]], dirty.points[[0, 2]])


@pytest.mark.parametrize("count", [1, 7, 23])
def test_evaluation_budget_is_exact(count: int) -> None:
    calls = 0

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return value_and_gradient(bowl)(points)

    result = minimize(evaluate, starts(2), optimizer=LBFGS(), budget=Budget(evaluations=count))
    assert calls == result.evaluations == len(result.trace) == len(result.times) == count
    assert result.reason == "evaluations"


def test_target_stops_the_run() -> None:
    result = minimize(
        value_and_gradient(bowl), starts(2), optimizer=LBFGS(lr=0.5), budget=Budget(target=1e-6, check_every=1)
    )
    assert result.reason == "target"
    assert float(result.values.min()) <= 1e-6
    assert float(result.trace[:-1].min()) > 1e-6


def test_a_run_in_which_everything_diverged_ends() -> None:
    result = minimize(
        value_and_gradient(lambda x: x.sum() * torch.nan), starts(2), optimizer=LBFGS(), budget=Budget(check_every=10)
    )
    assert result.reason == "nonfinite"
    assert result.evaluations == 10


def test_time_budget_ends_the_run() -> None:
    result = minimize(
        value_and_gradient(bowl), starts(1), optimizer=LBFGS(outer_steps=10**9), budget=Budget(seconds=0.1)
    )
    assert result.reason in {"seconds", "finished"}
    assert result.seconds < 0.2


def test_moments_keep_the_best_so_far() -> None:
    result = minimize(value_and_gradient(bowl), starts(2), optimizer=LBFGS(outer_steps=4), budget=Budget(), moments=8)
    best = torch.cummin(result.trace, dim=0).values
    for moment in result.moments:
        for restart in range(2):
            assert float(bowl(moment.points[restart])) == float(best[moment.evaluations - 1, restart])
    assert result.moments[-1].evaluations == result.evaluations


def test_gradients_equal_those_of_a_loop() -> None:
    points = starts(5)
    values, gradients = value_and_gradient(bowl, chunk_size=2)(points)
    for point, value, gradient in zip(points, values, gradients, strict=True):
        leaf = point.clone().requires_grad_()
        single = bowl(leaf)
        (expected,) = torch.autograd.grad(single, leaf)
        torch.testing.assert_close(value, single.detach(), rtol=1e-14, atol=0)
        torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


def test_a_run_that_misses_its_milestone_is_stuck_and_stops() -> None:
    def energy(point: torch.Tensor) -> torch.Tensor:
        return 1 + point.square().sum()

    start = torch.ones(1, 3, dtype=torch.float64)
    evaluate = value_and_gradient(energy)
    stuck = minimize(evaluate, start, optimizer=Adam(steps=99, lr=1e-3), budget=Budget(milestone=(20, 0.5)))
    assert (stuck.reason, stuck.evaluations) == ("stuck", 20)
    reached = minimize(evaluate, start, optimizer=Adam(steps=99, lr=1e-3), budget=Budget(milestone=(20, 4.0)))
    assert (reached.reason, reached.evaluations) == ("finished", 100)
