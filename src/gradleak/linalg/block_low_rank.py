"""Inverse of a block-diagonal matrix plus a product of few rows with themselves, by the Woodbury identity."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class BlockLowRankInverse:
    """The inverse of `diag(B_1, ..., B_m) + G^T G`.

    Attributes:
        inverses: of the blocks, `[m, n, n]`.
        rows: G, `[L, m n]`.
        solved: the blocks' inverse times `G^T`, `[m n, L]`.
        factor: lower Cholesky factor of `I + G B^-1 G^T`, `[L, L]`.
    """

    inverses: Tensor
    rows: Tensor
    solved: Tensor
    factor: Tensor

    @staticmethod
    def of(blocks: Tensor, rows: Tensor) -> "BlockLowRankInverse | None":
        """Factor the matrix.

        Args:
            blocks: B, symmetric, `[m, n, n]`.
            rows: G, `[L, m, n]`.

        Returns:
            The inverse, or None if the blocks or the whole are not positive definite in this precision.
        """
        factors, failed = torch.linalg.cholesky_ex(blocks)
        if bool(failed.any()):
            return None
        inverses = torch.cholesky_inverse(factors)
        solved = (inverses @ rows.permute(1, 2, 0)).flatten(0, 1)
        flat = rows.flatten(1)
        inner = flat @ solved
        inner = 0.5 * (inner + inner.T)
        inner.diagonal().add_(1.0)
        factor, failed = torch.linalg.cholesky_ex(inner)
        return None if bool(failed) else BlockLowRankInverse(inverses, flat, solved, factor)

    def __call__(self, vector: Tensor) -> Tensor:
        """Product with a vector `[m, n]`."""
        first = torch.bmm(self.inverses, vector[..., None])[..., 0]
        inner = torch.cholesky_solve(self.rows @ first.reshape(-1, 1), self.factor)
        return first - (self.solved @ inner).view_as(first)

    def diagonal(self) -> Tensor:
        """The diagonal, `[m, n]`; not negative."""
        lowered = torch.linalg.solve_triangular(self.factor, self.solved.T, upper=False)
        first = self.inverses.diagonal(dim1=1, dim2=2)
        return (first - lowered.square().sum(dim=0).view_as(first)).clamp(min=0)
