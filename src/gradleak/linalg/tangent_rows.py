"""Fewer equations with the same inner products: the derivative of a matrix of low rank lies in its tangent space.

The gradient of a linear layer is a sum of as many outer products as examples (and positions) went through it. Where its
rank r stays the same nearby, every derivative of `G = U S V^T` has the form `U X^T + Y V^T`, and so is known from the
`r (m + n) - r^2` numbers of `U^T dG` and `(I - U U^T) dG V` in place of `m n`; lengths and angles are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Of the largest singular value: below, a direction of a gradient in float64 is rounding.
_RANK_TOLERANCE = 1e-13
# Of a derivative's length: what may be missing of it in the tangent space, from the rounding of that space's bases.
_MISSING_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class _Part:
    """One tensor of the stacked rows: as it is, or by its tangent space.

    Attributes:
        size: rows before.
        bases: U `[m, r]` and V `[n, r]`; None for a part that is kept.
    """

    size: int
    bases: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """Rows after."""
        if self.bases is None:
            return self.size
        left, right = self.bases
        return left.shape[1] * (len(left) + len(right))

    def reduced(self, rows: Tensor) -> Tensor:
        """From `[size, k]` to `[fewer, k]`."""
        if self.bases is None:
            return rows
        left, right = self.bases
        matrices = rows.T.reshape(-1, len(left), len(right))
        along = torch.matmul(left.T, matrices)
        across = torch.matmul(matrices, right) - torch.matmul(left, torch.matmul(along, right))
        return torch.cat([along.flatten(1), across.flatten(1)], dim=1).T

    def loses(self, rows: Tensor) -> bool:
        """Whether any of these derivatives leaves the tangent space."""
        if self.bases is None:
            return False
        left, right = self.bases
        matrices = rows.T.reshape(-1, len(left), len(right))
        beyond = matrices - torch.matmul(left, torch.matmul(left.T, matrices))
        beyond = beyond - torch.matmul(torch.matmul(beyond, right), right.T)
        return bool((beyond.flatten(1).norm(dim=1) > _MISSING_TOLERANCE * rows.norm(dim=0)).any())


@dataclass(frozen=True, eq=False)
class TangentRows:
    """An isometry from the stacked derivatives of several matrices to fewer rows.

    Attributes:
        parts: in the order of the stack.
    """

    parts: tuple[_Part, ...]

    @staticmethod
    def at(matrices: Sequence[Tensor], uniform: Sequence[bool]) -> "TangentRows":
        """The tangent spaces at matrices.

        Args:
            matrices: of any number of axes; those that are not 2-dimensional are kept as they are.
            uniform: whether all rows of a matrix have one scale; where not, the structure is lost.

        Returns:
            The map. Whether it holds has to be seen from derivatives, see `without_losses`: a rank that is smaller at
            this very point than nearby leaves too small a space.
        """
        return TangentRows(tuple(map(_part, matrices, uniform)))

    @property
    def size(self) -> int:
        """Rows after."""
        return sum(part.length for part in self.parts)

    def __call__(self, rows: Tensor) -> Tensor:
        """`[P, k]` to `[size, k]`."""
        sizes = [part.size for part in self.parts]
        return torch.cat([part.reduced(own) for part, own in zip(self.parts, rows.split(sizes), strict=True)])

    def scales(self, scales: Tensor) -> Tensor:
        """What multiplies the rows after, `[size]`, for rows before that are multiplied by `scales` `[P]`."""
        sizes = [part.size for part in self.parts]
        return torch.cat(
            [
                own if part.bases is None else own[:1].expand(part.length)
                for part, own in zip(self.parts, scales.split(sizes), strict=True)
            ]
        )

    def without_losses(self, rows: Tensor) -> "TangentRows":
        """The map that keeps whole those parts for which some derivative leaves the tangent space.

        Args:
            rows: derivatives in random directions, `[P, k]`.

        Returns:
            A map that holds for them.
        """
        sizes = [part.size for part in self.parts]
        return TangentRows(
            tuple(
                _Part(part.size) if part.loses(own) else part
                for part, own in zip(self.parts, rows.split(sizes), strict=True)
            )
        )


def _part(matrix: Tensor, uniform: bool) -> _Part:
    whole = _Part(matrix.numel())
    if matrix.dim() != 2 or not uniform or min(matrix.shape) < 4 or not bool(matrix.any()):
        return whole
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > _RANK_TOLERANCE * values[0]).sum())
    if 2 * rank * sum(matrix.shape) > matrix.numel():
        return whole
    return _Part(matrix.numel(), (left[:, :rank].contiguous(), right[:rank].T.contiguous()))
