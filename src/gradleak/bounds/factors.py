"""The Jacobian as a bound needs it: rows in units of the noise, and unknown targets projected out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.bounds.unknowns import Unknowns
from gradleak.linalg import JacobianOperator, Spectrum, TangentRows, dense_spectrum, gram_spectrum

RANK_TOLERANCE = 1e-11
"""Singular values below this share of the largest are what rounding of the derivatives themselves can make."""

_FEWEST_FOR_GRAM = 512
# Derivatives in random directions that tell whether a tangent space holds.
_TRIALS = 8


@dataclass(frozen=True, eq=False)
class StreamedFactor:
    """By products alone.

    Attributes:
        operator: J by the inputs.
        scale: of each row, `[P]`.
        nuisance: orthonormal columns `[P, k]` that span what unknown targets can change, in scaled rows.
    """

    operator: JacobianOperator
    scale: Tensor
    nuisance: Tensor | None

    @property
    def size(self) -> int:
        """Unknown input values d."""
        return self.operator.shape[1]

    def times(self, vectors: Tensor) -> Tensor:
        """From `[d, k]` to `[P, k]`."""
        return self._beside(self.scale[:, None] * self.operator.matmat(vectors))

    def product(self, vectors: Tensor) -> Tensor:
        """The square times vectors, `[d, k]` to `[d, k]`."""
        return self.operator.rmatmat(self.scale[:, None] * self.times(vectors))

    def transposed(self, rows: Tensor) -> Tensor:
        """From `[P, k]` to `[d, k]`."""
        return self.operator.rmatmat(self.scale[:, None] * self._beside(rows))

    def spectrum(self) -> Spectrum:
        """All of it, by the Gram matrix in blocks."""
        gram = self.operator.gram(left=lambda rows: self.scale[:, None] * self._beside(self.scale[:, None] * rows))
        return gram_spectrum(gram, self.times)

    def _beside(self, rows: Tensor) -> Tensor:
        return rows if self.nuisance is None else rows - self.nuisance @ (self.nuisance.T @ rows)


@dataclass(frozen=True, eq=False)
class StoredFactor:
    """By the matrix itself, in tangent rows.

    Attributes:
        rows: how derivatives are reduced.
        inputs: J by the inputs, unscaled, `[rows.size, d]`.
        targets: the same by unknown targets.
    """

    rows: TangentRows
    inputs: Tensor
    targets: Tensor | None

    def spectrum(self, scale: Tensor) -> Spectrum:
        """All of it, for one scale of each row, `[P]`."""
        reduced = self.rows.scales(scale)[:, None]
        matrix = reduced * self.inputs
        if self.targets is not None:
            basis = range_of(reduced * self.targets)
            matrix = torch.addmm(matrix, basis, basis.T @ matrix, alpha=-1)
        if min(matrix.shape) <= _FEWEST_FOR_GRAM or len(matrix) < matrix.shape[1]:
            return dense_spectrum(matrix)
        return gram_spectrum(matrix.T @ matrix, lambda vectors: matrix @ vectors)


def range_of(columns: Tensor) -> Tensor:
    """An orthonormal basis of the space of some columns, `[P, rank]`."""
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    return left[:, values > RANK_TOLERANCE * values[0]]


def streamed(problem: Unknowns, scale: Tensor) -> StreamedFactor:
    """The factor by products, after the derivatives by unknown targets."""
    nuisance = None
    if problem.by_targets is not None:
        nuisance = range_of(scale[:, None] * problem.by_targets.dense())
    return StreamedFactor(problem.by_inputs, scale, nuisance)


def tangent_rows(problem: Unknowns, scales: Sequence[Tensor], generator: torch.Generator) -> TangentRows:
    """How the rows of this problem can be reduced under all of some scales.

    Args:
        problem: the client.
        scales: of each row, `[P]`.
        generator: of the directions in which this is tried.

    Returns:
        The map; where it saves nothing it changes nothing.
    """
    tensors = [problem.sent[name] for name in problem.names]
    sizes = [tensor.numel() for tensor in tensors]
    uniform = [True] * len(tensors)
    for scale in scales:
        parts = scale.split(sizes)
        uniform = [known and bool((part == part[:1]).all()) for known, part in zip(uniform, parts, strict=True)]
    rows = TangentRows.at(tensors, uniform)
    for operator in (problem.by_inputs, problem.by_targets):
        if operator is not None:
            tried = torch.randn(operator.shape[1], _TRIALS, generator=generator, dtype=torch.float64)
            rows = rows.without_losses(operator.matmat(tried.to(operator.at)))
    return rows


def stored(problem: Unknowns, rows: TangentRows) -> StoredFactor:
    """Compute the matrix."""

    def reduced(operator: JacobianOperator) -> Tensor:
        equations, unknowns = operator.shape
        if equations < unknowns:
            return rows(operator.dense())
        matrix = torch.empty(rows.size, unknowns, dtype=operator.at.dtype, device=operator.at.device)
        for place, block in operator.columns():
            matrix[:, place] = rows(block)
        return matrix

    return StoredFactor(
        rows, reduced(problem.by_inputs), None if problem.by_targets is None else reduced(problem.by_targets)
    )
