"""Spectra of `J^T J`: exact, also where the square has lost the small ones, and from few products with error estimates.

Forming `J^T J` squares the condition number. In float64 its eigenvalues are certain to about `eps s_max^2`, so a
singular value s is relatively certain to `eps (s_max / s)^2`: at a ratio of 1e4, where `squared` hands over to the
products `J V` with the eigenvectors of the rest (`refined`), that is 1e-8, and what it returns is certain to about
`1e-12 s_max` throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A symmetric positive semidefinite map, or a factor of one: from `[d, k]` to `[d, k]` or `[P, k]`."""

# Share of the largest singular value above which an eigenvalue of the square is precise enough.
_SURVIVES = 1e-4


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values and right singular vectors of J.

    Attributes:
        values: descending, at least 0, `[k]`.
        vectors: `[d, k]`, orthonormal.
        errors: how far each value may be off, `[k]`.
        complete: whether these are all d of them, but for zeros.
    """

    values: Tensor
    vectors: Tensor
    errors: Tensor
    complete: bool = True


@dataclass(frozen=True)
class Estimate:
    """A number from random draws.

    Attributes:
        value: the mean.
        error: its standard error.
    """

    value: float
    error: float


def dense_spectrum(matrix: Tensor) -> Spectrum:
    """By a decomposition of J `[P, d]` itself, certain to about `eps s_max`; for small ones.

    Args:
        matrix: of finite numbers.

    Returns:
        `min(P, d)` values.
    """
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    largest = float(values[0]) if len(values) else 0.0
    eps = torch.finfo(matrix.dtype).eps
    return Spectrum(values, right.T, torch.full_like(values, 4 * eps * largest * max(matrix.shape) ** 0.5))


def gram_spectrum(gram: Tensor, factor: Product) -> Spectrum:
    """By the eigenvalues of `J^T J`, with the small ones from J.

    Args:
        gram: `J^T J`, `[d, d]`.
        factor: J as a map of blocks `[d, k]`.

    Returns:
        All d values.
    """
    squares, vectors = torch.linalg.eigh(gram)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    values = squares.sqrt()
    kept = int((values > _SURVIVES * values[0]).sum())
    eps = torch.finfo(gram.dtype).eps
    errors = eps * len(gram) ** 0.5 * squares[0] / torch.where(values > 0, values, 1)
    if kept < len(values):
        # The eigenvectors of the rest span the right space to about eps / 1e-8, and only turn within it.
        rest = vectors[:, kept:]
        inner = dense_spectrum(factor(rest))
        missing = rest.shape[1] - len(inner.values)
        values = torch.cat([values[:kept], inner.values, values.new_zeros(missing)])
        rotation = inner.vectors
        if missing:
            rotation = torch.linalg.qr(inner.vectors, mode="complete").Q
            rotation[:, : len(inner.values)] = inner.vectors
        vectors = torch.cat([vectors[:, :kept], rest @ rotation], dim=1)
        errors = torch.cat([errors[:kept], torch.full_like(values[kept:], 1e-12 * float(values[0]))])
    return Spectrum(values, vectors, errors)


def block_lanczos(
    product: Product, size: int, count: int, generator: torch.Generator, *, rounds: int = 3, like: Tensor
) -> Spectrum:
    """The largest singular values from products with `A = J^T J` (block Krylov; Musco and Musco 2015, algorithm 2).

    From a random block Y the space of `Y, A Y, A^2 Y, ...` is made orthonormal, and A restricted to it is decomposed.
    Every value returned is at most the true one of its rank, and `errors` is the residual `||A v - s^2 v||` in units of
    s: there is a true singular value that near.

    Args:
        product: A as a map of blocks.
        size: d.
        count: values wanted, the width of the block.
        generator: of the first block.
        rounds: products; the space has `count * rounds` dimensions.
        like: whose type and device everything has.

    Returns:
        The `min(count, d)` largest.
    """
    width = min(count, size)
    block = torch.randn(size, width, generator=generator, dtype=torch.float64).to(like)
    basis = torch.linalg.qr(block).Q
    image = product(basis)
    block = image
    for _ in range(rounds - 1):
        block = block[:, : size - basis.shape[1]]
        if not block.shape[1]:
            break
        # Twice, since once leaves rounding of the size of what was taken away.
        for _ in range(2):
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        basis, block = torch.cat([basis, block], dim=1), product(block)
        image = torch.cat([image, block], dim=1)
    small = basis.T @ image
    squares, rotation = torch.linalg.eigh((small + small.T) / 2)
    squares, rotation = squares.flip(0)[:width].clamp(min=0), rotation.flip(1)[:, :width]
    vectors = basis @ rotation
    residuals = (image @ rotation - vectors * squares).norm(dim=0)
    values = squares.sqrt()
    # |s - s'| = |s^2 - s'^2| / (s + s'), and rounding on top.
    eps = torch.finfo(like.dtype).eps
    errors = (residuals + eps * size**0.5 * squares[:1]) / torch.where(values > 0, values, 1)
    return Spectrum(values, vectors, errors, complete=width == size)


def hutchinson_trace(
    product: Product, size: int, probes: int, generator: torch.Generator, *, like: Tensor, beside: Tensor | None = None
) -> Estimate:
    """The trace of A from random signs z: the mean of `z^T A z` (Hutchinson 1990).

    Args:
        product: A as a map of blocks.
        size: d.
        probes: draws, at least 2.
        generator: of the signs.
        like: whose type and device everything has.
        beside: orthonormal columns whose space is left out: the trace is that of A restricted to the complement, whose
            estimate varies less where the columns are the leading eigenvectors (Meyer et al. 2021).

    Returns:
        Mean and standard error.
    """
    signs = torch.randint(2, (size, probes), generator=generator).to(like) * 2 - 1
    if beside is not None:
        signs = signs - beside @ (beside.T @ signs)
    draws = (signs * product(signs)).sum(dim=0)
    return Estimate(float(draws.mean()), float(draws.std() / probes**0.5))
