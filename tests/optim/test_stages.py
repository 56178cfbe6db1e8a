"""Coarse to fine: coordinates, budgets, and the joined course."""

import pytest
import torch
from torch import Tensor

from gradleak.optim import Adam, Budget, Stage, WolfeLBFGS, minimize, minimize_in_stages, value_and_gradient

TARGET = torch.tensor([1.0, 1.0, 2.0, 2.0, 5.0, 6.0], dtype=torch.float64)


def bowl(point: Tensor) -> Tensor:
    return (point - TARGET).square().sum() + (point - TARGET).pow(4).sum()


def doubled(coordinates: Tensor) -> Tensor:
    return coordinates.repeat_interleave(2)


def halved(point: Tensor) -> Tensor:
    return point.view(-1, 2).mean(dim=1)


COARSE = Stage(WolfeLBFGS(), 40, expand=doubled, restrict=halved)
FINE = Stage(WolfeLBFGS())
START = torch.zeros((2, 6), dtype=torch.float64)


def test_a_coarse_stage_stays_in_its_family_and_the_fine_one_finishes() -> None:
    coarse = minimize_in_stages(bowl, START, [COARSE], budget=Budget())
    assert torch.equal(coarse.points[:, ::2], coarse.points[:, 1::2])
    expected = torch.tensor([1.0, 1.0, 2.0, 2.0, 5.5, 5.5], dtype=torch.float64)
    torch.testing.assert_close(coarse.points, expected.expand(2, 6), atol=1e-6, rtol=0)
    both = minimize_in_stages(bowl, START, [COARSE, FINE], budget=Budget())
    torch.testing.assert_close(both.points, TARGET.expand(2, 6), atol=1e-6, rtol=0)
    assert float(both.values[0]) == float(bowl(both.points[0]))


def test_the_course_of_all_stages_is_joined() -> None:
    reports: list[int] = []
    joined = minimize_in_stages(
        bowl,
        START,
        [Stage(Adam(12), expand=doubled, restrict=halved), Stage(Adam(20))],
        budget=Budget(),
        moments=5,
        progress=lambda count, _best: reports.append(count),
    )
    assert joined.evaluations == len(joined.trace) == len(joined.times) == 13 + 21
    assert list(joined.times) == sorted(joined.times)
    assert reports == [10, 23, 33]
    counts = [moment.evaluations for moment in joined.moments]
    assert counts == sorted(counts)
    assert counts[-1] == 34
    assert all(moment.points.shape == (2, 6) for moment in joined.moments)


@pytest.mark.parametrize("limit", [1, 5, 13, 14, 30])
def test_one_budget_holds_for_all_stages(limit: int) -> None:
    stages = [Stage(Adam(12), expand=doubled, restrict=halved), Stage(Adam(50))]
    result = minimize_in_stages(bowl, START, stages, budget=Budget(evaluations=limit))
    assert result.evaluations == limit


def test_a_single_stage_is_a_plain_run() -> None:
    plain = minimize(value_and_gradient(bowl), START, optimizer=Adam(9), budget=Budget())
    staged = minimize_in_stages(bowl, START, [Stage(Adam(9))], budget=Budget())
    assert torch.equal(plain.trace, staged.trace)
    assert torch.equal(plain.points, staged.points)


def test_box_holds_in_every_stage() -> None:
    box = (torch.full((6,), -1.0, dtype=torch.float64), torch.full((6,), 3.0, dtype=torch.float64))
    result = minimize_in_stages(bowl, START, [COARSE, FINE], budget=Budget(evaluations=200), box=box)
    expected = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(result.points, expected.expand(2, 6), atol=1e-6, rtol=0)


def test_coupling_pulls_restarts_together() -> None:
    def coupling(points: Tensor) -> Tensor:
        return 5 * (points - points.mean(dim=0)).square().sum(dim=1)

    def double_well(point: Tensor) -> Tensor:
        return (point.square() - 1).square().sum()

    start = torch.tensor([[-1.2], [0.9], [1.1]], dtype=torch.float64)
    alone = minimize(value_and_gradient(double_well), start, optimizer=Adam(300), budget=Budget())
    evaluate = value_and_gradient(double_well, coupling=coupling)
    together = minimize(evaluate, start, optimizer=Adam(300), budget=Budget())
    assert float(alone.points.max() - alone.points.min()) > 1.9
    assert float(together.points.max() - together.points.min()) < 0.1
