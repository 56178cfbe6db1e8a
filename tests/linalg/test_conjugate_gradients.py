"""Conjugate gradients against a dense solve."""

import torch

from gradleak.linalg import conjugate_gradients


def spd(size: int, condition: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return basis @ torch.diag(torch.logspace(0, torch.tensor(condition).log10().item(), size).double()) @ basis.T


def test_solves_like_a_dense_factorization() -> None:
    matrix = spd(40, 1e4)
    right_side = torch.arange(40, dtype=torch.float64)
    found = conjugate_gradients(lambda x: matrix @ x, right_side, torch.ones(40, dtype=torch.float64), max_steps=200)
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, right_side), rtol=1e-8, atol=1e-8)


def test_exact_preconditioner_needs_one_step() -> None:
    matrix = spd(30, 1e6)
    inverse = torch.linalg.inv(matrix)
    right_side = torch.ones(30, dtype=torch.float64)
    found = conjugate_gradients(
        lambda x: matrix @ x, right_side, torch.zeros(30).double(), preconditioner=inverse.mv, max_steps=1
    )
    torch.testing.assert_close(found.x, inverse @ right_side, rtol=1e-6, atol=1e-9)
    assert found.steps == 1


def test_stops_at_the_given_energy() -> None:
    matrix = spd(60, 1e5)
    right_side = torch.ones(60, dtype=torch.float64)
    truth = torch.linalg.solve(matrix, right_side)
    inverse = torch.linalg.inv(matrix)
    loose = conjugate_gradients(lambda x: matrix @ x, right_side, torch.zeros(60).double(), energy=1e-3)
    tight = conjugate_gradients(lambda x: matrix @ x, right_side, torch.zeros(60).double(), energy=1e-9)
    assert loose.steps < tight.steps
    assert loose.energy <= 1e-3
    # With the exact inverse as preconditioner the estimate is the energy of the error itself.
    start = torch.zeros(60).double()
    found = conjugate_gradients(lambda x: matrix @ x, right_side, start, preconditioner=inverse.mv, max_steps=0)
    assert abs(found.energy - float(truth @ matrix @ truth)) < 1e-6 * found.energy


def test_a_solved_system_takes_no_step() -> None:
    zero = torch.zeros(5, dtype=torch.float64)
    found = conjugate_gradients(lambda x: 2 * x, zero, zero)
    assert (found.steps, float(found.x.abs().max())) == (0, 0.0)
