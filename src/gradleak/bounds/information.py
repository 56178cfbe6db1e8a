"""Fisher information about the private inputs, and what it says about any unbiased estimate of them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Share of a unit vector in the free directions above which an input value counts as touched by them.
_TOUCHED = 1e-6


@dataclass(frozen=True, eq=False)
class FisherInformation:
    """The information matrix by its eigenvectors: `I = V diag(values) V^T`, zero on the complement.

    Attributes:
        values: descending, above 0, `[r]`, in one over the square of an input's unit; infinity without noise.
        vectors: orthonormal columns, `[d, r]`.
        exact: whether nothing is missing; otherwise these are the leading ones alone.
    """

    values: Tensor
    vectors: Tensor
    exact: bool = True

    @property
    def unknowns(self) -> int:
        """D."""
        return len(self.vectors)

    @property
    def rank(self) -> int:
        """R."""
        return len(self.values)

    @property
    def free(self) -> int:
        """Directions about which nothing is known locally."""
        return self.unknowns - self.rank

    def mse_floor(self) -> float:
        """`tr(I^-1) / d`, the least mean squared error of an unbiased estimate; infinite if any is free."""
        if self.free:
            return math.inf
        return float((1 / self.values).sum()) / max(1, self.unknowns)

    def identifiable_mse_floor(self) -> float:
        """The mean over the identifiable directions alone; NaN where there are none."""
        return float((1 / self.values).mean()) if self.rank else math.nan

    def mean(self) -> float:
        """`tr(I) / d`, the square of the Fisher information loss of Hannun, Guo, van der Maaten (UAI 2021)."""
        return float(self.values.sum()) / max(1, self.unknowns)

    def share_within(self, std: float) -> float:
        """Share of all d directions along which an unbiased estimate can have a standard deviation of at most `std`."""
        return float((self.values >= std**-2).sum()) / max(1, self.unknowns)

    def std(self) -> Tensor:
        """Least standard deviation of each input value, `[d]`; infinite where a free direction touches it."""
        squares = self.vectors.square()
        variance = squares @ (1 / self.values)
        return torch.where(1 - squares.sum(dim=1) > _TOUCHED, torch.inf, variance.sqrt())

    def matrix(self) -> Tensor:
        """I itself, `[d, d]`."""
        return (self.vectors * self.values) @ self.vectors.T
