"""Spectra against known ones, and estimates against their own errors."""

import pytest
import torch
from torch import Tensor

from gradleak.linalg import block_lanczos, dense_spectrum, gram_spectrum, hutchinson_trace


def made(values: Tensor, rows: int, seed: int = 0) -> Tensor:
    """A matrix of known singular values."""
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    left = torch.linalg.qr(torch.randn(rows, size, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return left * values @ right.T


@pytest.mark.parametrize("decades", [2, 7, 11])
def test_the_square_does_not_lose_small_values(decades: int) -> None:
    wanted = torch.logspace(1, 1 - decades, 60, dtype=torch.float64)
    matrix = made(wanted, 90)
    spectrum = gram_spectrum(matrix.T @ matrix, lambda vectors: matrix @ vectors)
    assert float((spectrum.values - wanted).abs().max()) < 1e-11 * 10
    assert bool(((spectrum.values - wanted).abs() <= spectrum.errors).all())
    # What the plain square makes of the smallest, so that this test is known to be able to fail.
    plain = torch.linalg.eigvalsh(matrix.T @ matrix).clamp(min=0).sqrt()
    if decades == 11:
        assert float((plain[0] - wanted[-1]).abs()) > 1e-8 or float(plain[0]) == 0
    identity = torch.eye(60, dtype=torch.float64)
    assert float((spectrum.vectors.T @ spectrum.vectors - identity).abs().max()) < 1e-10
    residual = (matrix @ spectrum.vectors).norm(dim=0) - spectrum.values
    assert float(residual.abs().max()) < 1e-10


def test_directions_without_a_trace_are_zeros_with_vectors() -> None:
    wanted = torch.cat([torch.logspace(0, -2, 20), torch.zeros(10)]).double()
    matrix = made(wanted, 25 + 10)[:25]  # fewer rows than columns on top
    spectrum = gram_spectrum(matrix.T @ matrix, lambda vectors: matrix @ vectors)
    dense = torch.linalg.svdvals(matrix)
    assert float((spectrum.values[:25] - dense).abs().max()) < 1e-12
    assert int((spectrum.values > 1e-11).sum()) == int((dense > 1e-11).sum())
    free = spectrum.vectors[:, spectrum.values <= 1e-11]
    assert float((matrix @ free).norm()) < 1e-11


def test_a_matrix_of_zeros_has_zeros() -> None:
    zeros = torch.zeros(9, 6, dtype=torch.float64)
    for spectrum in (gram_spectrum(zeros.T @ zeros, lambda vectors: zeros @ vectors), dense_spectrum(zeros)):
        assert not bool(spectrum.values.any())


@pytest.mark.parametrize("seed", range(4))
def test_lanczos_is_within_its_own_errors(seed: int) -> None:
    matrix = made(torch.logspace(1, -4, 300, dtype=torch.float64), 320, seed)
    exact = torch.linalg.svdvals(matrix)
    found = block_lanczos(
        lambda vectors: matrix.T @ (matrix @ vectors),
        300,
        12,
        torch.Generator().manual_seed(seed),
        rounds=4,
        like=matrix,
    )
    nearest = (found.values[:, None] - exact).abs().min(dim=1).values
    assert bool((nearest <= found.errors).all())
    assert bool((found.values <= exact[:12] * (1 + 1e-12)).all())
    assert float((found.values[0] - exact[0]).abs()) < 1e-4 * float(exact[0])
    assert not found.complete


def test_lanczos_ends_where_the_space_does() -> None:
    matrix = made(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64), 8)
    found = block_lanczos(
        lambda vectors: matrix.T @ (matrix @ vectors), 5, 9, torch.Generator().manual_seed(0), like=matrix
    )
    assert torch.allclose(found.values, torch.linalg.svdvals(matrix), atol=1e-7)


def test_the_trace_is_within_its_standard_error_and_leaves_a_space_out() -> None:
    matrix = made(torch.logspace(1, -1, 100, dtype=torch.float64), 120)
    gram = matrix.T @ matrix
    _, _, right = torch.linalg.svd(matrix)
    estimates = [
        hutchinson_trace(lambda vectors: gram @ vectors, 100, 20, torch.Generator().manual_seed(seed), like=gram)
        for seed in range(40)
    ]
    pulls = torch.tensor([(found.value - float(gram.trace())) / found.error for found in estimates])
    assert float(pulls.abs().median()) < 1.2
    assert abs(float(pulls.mean())) < 3 / 40**0.5
    rest = hutchinson_trace(
        lambda vectors: gram @ vectors,
        100,
        50,
        torch.Generator().manual_seed(0),
        like=gram,
        beside=right[:20].T,
    )
    wanted = float(torch.linalg.svdvals(matrix)[20:].square().sum())
    assert abs(rest.value - wanted) < 4 * rest.error < 0.5 * wanted
