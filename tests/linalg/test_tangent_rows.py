"""Rows reduced by the tangent space of a matrix of low rank."""

import torch
from torch import Tensor

from gradleak.linalg import TangentRows


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factors(weight: Tensor) -> tuple[Tensor, Tensor]:
    return random(20, 2, seed=1) * weight, random(2, 30, seed=2)


def derivatives(weight: Tensor, count: int = 9) -> tuple[Tensor, Tensor]:
    """A product of rank 2 (or 1), beside a vector, and derivatives of both in random directions: `[P, count]`."""
    left, right = factors(weight)
    moved = [random(20, 2, seed=7 + k) @ right + left @ random(2, 30, seed=90 + k) for k in range(count)]
    rows = torch.stack([torch.cat([move.flatten(), random(5, seed=200 + k)]) for k, move in enumerate(moved)], dim=1)
    return left @ right, rows


def test_lengths_and_angles_are_kept_by_fewer_rows() -> None:
    matrix, rows = derivatives(torch.ones(2).double())
    tangent = TangentRows.at([matrix, torch.zeros(5).double()], [True, True]).without_losses(rows)
    assert tangent.size == 2 * (20 + 30) + 5
    reduced = tangent(rows)
    assert torch.allclose(reduced.T @ reduced, rows.T @ rows, rtol=1e-12)
    scale = torch.cat([torch.full((600,), 3.0), torch.arange(5.0)]).double()
    assert torch.allclose(tangent.scales(scale)[:, None] * reduced, tangent(scale[:, None] * rows))


def test_a_rank_that_is_smaller_at_this_point_only_is_noticed() -> None:
    matrix, rows = derivatives(torch.tensor([1.0, 0.0]).double())  # rank 1 here, 2 nearby
    tangent = TangentRows.at([matrix, torch.zeros(5).double()], [True, True])
    assert tangent.size < len(rows)
    assert tangent.without_losses(rows).size == len(rows)


def test_rows_of_different_scales_are_kept() -> None:
    matrix, rows = derivatives(torch.ones(2).double())
    assert torch.equal(TangentRows.at([matrix, torch.zeros(5).double()], [False, True])(rows), rows)
