"""Bidiagonalization of many maps, and its quadrature rules, against dense decompositions."""

import torch
from torch import Tensor

from gradleak.linalg.golub_kahan import Bidiagonal, golub_kahan
from gradleak.seeds import stage_generator

RIDGE = 1e-4


def matrices(count: int = 3, rows: int = 12, columns: int = 9, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.randn(count, rows, columns, generator=stage_generator(0, "matrices"), dtype=torch.float64)
    left, _, right = torch.linalg.svd(drawn, full_matrices=False)
    return (left * torch.logspace(0, -3, columns, dtype=torch.float64) @ right).to(dtype)


def bidiagonal(maps: Tensor, starts: Tensor, steps: int) -> Bidiagonal:
    return golub_kahan(
        lambda v: torch.einsum("nij,nj->ni", maps, v), lambda u: torch.einsum("nij,ni->nj", maps, u), starts, steps
    )


def ridge(values: Tensor) -> Tensor:
    return 1 / (values.square() + RIDGE)


def truth(maps: Tensor, starts: Tensor) -> Tensor:
    square = maps.mT @ maps + RIDGE * torch.eye(maps.shape[2], dtype=torch.float64)
    unit = starts / starts.norm(dim=1, keepdim=True)
    return (unit * torch.linalg.solve(square, unit)).sum(dim=1)


def starts_of(maps: Tensor) -> Tensor:
    shape = (len(maps), maps.shape[2])
    return torch.randn(shape, generator=stage_generator(1, "starts"), dtype=torch.float64).to(maps.dtype)


def test_all_steps_give_all_singular_values_and_the_exact_quadratic_form() -> None:
    maps = matrices()
    starts = starts_of(maps)
    rule = bidiagonal(maps, starts, 9).gauss()
    torch.testing.assert_close(rule.nodes, torch.linalg.svdvals(maps), rtol=0, atol=1e-10)
    torch.testing.assert_close(rule.weights.sum(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(rule.mean(ridge), truth(maps, starts), rtol=1e-8, atol=0)


def test_rules_close_in_on_the_truth_from_both_sides() -> None:
    maps = matrices()
    starts = starts_of(maps)
    exact = truth(maps, starts)
    lower = torch.stack([bidiagonal(maps, starts, steps).gauss().mean(ridge) for steps in range(1, 9)])
    upper = torch.stack([bidiagonal(maps, starts, steps).radau().mean(ridge) for steps in range(1, 9)])
    assert bool((lower < exact).all())
    assert bool((upper > exact).all())
    assert bool((lower.diff(dim=0) > 0).all())
    assert bool((upper.diff(dim=0) < 0).all())


def test_small_singular_values_survive_float32() -> None:
    # On the square, eps in float32 would hide everything below 3e-4 of the largest.
    maps = matrices(dtype=torch.float32)
    rule = bidiagonal(maps, starts_of(maps), 9).gauss()
    torch.testing.assert_close(rule.nodes[:, -1], torch.full((3,), 1e-3, dtype=torch.float64), rtol=2e-3, atol=0)


def test_exhausted_spaces_and_zero_maps_stay_finite() -> None:
    maps = torch.stack([torch.zeros(5, 4), torch.ones(5, 4)]).double()
    rule = bidiagonal(maps, starts_of(maps), 4).gauss()
    torch.testing.assert_close(rule.nodes[0], torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(rule.nodes[1, 0], torch.tensor(20.0, dtype=torch.float64).sqrt())
    torch.testing.assert_close(rule.mean(torch.square)[1], _form(maps, starts_of(maps))[1])
    assert rule.mean(lambda values: 1 / values.square())[0] == torch.inf


def _form(maps: Tensor, starts: Tensor) -> Tensor:
    unit = starts / starts.norm(dim=1, keepdim=True)
    return torch.einsum("nij,nj->ni", maps, unit).square().sum(dim=1)
