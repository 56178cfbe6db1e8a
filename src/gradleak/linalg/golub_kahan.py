"""A few steps of Golub-Kahan bidiagonalization for many maps at once, and the quadrature rules that follow from them.

From a unit vector v, k steps give a small bidiagonal B. With its singular values s_j and the squares w_j of the first
entries of its right singular vectors, the sum of `w_j f(s_j^2)` is a Gauss rule for `v^T f(J^T J) v`: from below where
all even derivatives of f are positive, as for `1 / (x + c)`. Fixing a node at 0, below all eigenvalues, makes it a
Gauss-Radau rule, from above for the same f (Golub and Meurant 1994). Averaged over random signs z and times d, both
estimate the trace of `f(J^T J)` (stochastic Lanczos quadrature, Ubaru, Chen and Saad 2017).

J and its transpose are applied by turns, so that singular values are certain to about eps of the largest. With Lanczos
on `J^T J` that would be the square root of eps, and float32 would not do.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Products = Callable[[Tensor], Tensor]
"""One vector for each of n maps: from `[n, d]` to `[n, P]`, or back."""

# Of the largest entry of B so far: a vector shorter than this is rounding.
_ROUNDING = 8.0


@dataclass(frozen=True, eq=False)
class Rule:
    """Nodes and weights of a quadrature rule for each of some unit vectors.

    Attributes:
        nodes: singular values, descending, `[..., k]`.
        weights: at least 0, with sum 1, `[..., k]`.
    """

    nodes: Tensor
    weights: Tensor

    def mean(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`v^T f(J^T J) v`, where `function` has the singular values as its argument: `[...]`."""
        values = function(self.nodes)
        # A node without weight says nothing, and may be where the function is infinite.
        return torch.where(self.weights > 0, self.weights * values, 0).sum(dim=-1)


@dataclass(frozen=True, eq=False)
class Bidiagonal:
    """B of each of n starts, in float64.

    Attributes:
        diagonal: `[..., k]`.
        above: beside it, `[..., k]`; the last one leads out of B.
    """

    diagonal: Tensor
    above: Tensor

    def gauss(self) -> Rule:
        """As many nodes as steps."""
        return self._rule(torch.diag_embed(self.diagonal) + torch.diag_embed(self.above[..., :-1], offset=1))

    def radau(self) -> Rule:
        """The same and a node at 0."""
        square = torch.diag_embed(torch.nn.functional.pad(self.diagonal, (0, 1)))
        return self._rule(square + torch.diag_embed(self.above, offset=1))

    @staticmethod
    def _rule(matrix: Tensor) -> Rule:
        _, values, right = torch.linalg.svd(matrix)
        return Rule(values, right[..., 0].square())


def golub_kahan(times: Products, transposed: Products, starts: Tensor, steps: int) -> Bidiagonal:
    """Bidiagonalize n maps, each from its own start.

    The vectors on the side of d are kept and made orthogonal to each other, which keeps those on the other side
    orthogonal as well (Simon and Zha 2000); of these only the last is held.

    Args:
        times: J of each.
        transposed: its transpose.
        starts: not zero, `[n, d]`.
        steps: k, products with each of the two; at most d are taken.

    Returns:
        B of each; where a space is exhausted before, the rest is zero.
    """
    steps = min(steps, starts.shape[1])
    right, _ = _unit(starts, torch.zeros_like(starts[:, 0]))
    largest, left = torch.zeros_like(starts[:, 0]), torch.zeros(len(starts), 1).to(starts)
    basis, diagonal, above = [right], list[Tensor](), list[Tensor]()
    link = torch.zeros_like(largest)
    for _ in range(steps):
        left, entry = _unit(times(right) - link[:, None] * left, largest)
        diagonal.append(entry)
        largest = torch.maximum(largest, entry)
        held = torch.stack(basis, dim=1)
        rest = transposed(left)
        # Twice, since once leaves rounding of the size of what was taken away.
        for _ in range(2):
            rest = rest - torch.einsum("nk,nkd->nd", torch.einsum("nkd,nd->nk", held, rest), held)
        right, link = _unit(rest, largest)
        largest = torch.maximum(largest, link)
        basis.append(right)
        above.append(link)
    return Bidiagonal(torch.stack(diagonal, dim=-1).double(), torch.stack(above, dim=-1).double())


def _unit(vectors: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors and lengths; zeros for what is rounding beside `largest`."""
    lengths = vectors.norm(dim=1)
    kept = lengths > _ROUNDING * torch.finfo(vectors.dtype).eps * largest
    lengths = torch.where(kept, lengths, 0)
    return torch.where(kept[:, None], vectors / torch.where(kept, lengths, 1)[:, None], 0), lengths
