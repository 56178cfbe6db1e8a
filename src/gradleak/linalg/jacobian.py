"""The Jacobian of a function between flat vectors, without storing it."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse.linalg import LinearOperator

# Entries of one block of products held at once, 128 MB in float64. Intermediate values of a network are several times
# that.
_ENTRIES_AT_ONCE = 2**24
_LARGEST_CHUNK = 128


class JacobianOperator:
    """J of a function from `[d]` to `[P]` at a point, by products alone.

    `J v` is by forward mode and `J^T u` by reverse mode, each for a block of vectors under `vmap`.

    Args:
        function: from `[d]` to `[P]`, pure, and usable under `torch.func` transforms.
        at: the point `[d]`; its type decides the precision of everything.
        chunk: vectors of a block; None for up to 128, as memory allows.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        at: Tensor,
        *,
        chunk: int | None = None,
    ) -> None:
        _load_forward_mode()
        self.function = function
        self.at = at.detach()
        with torch.no_grad():
            self.value = function(self.at)
        self.chunk = chunk or max(1, min(_LARGEST_CHUNK, _ENTRIES_AT_ONCE // max(1, *self.shape)))

    @property
    def shape(self) -> tuple[int, int]:
        """P and d."""
        return self.value.numel(), self.at.numel()

    def matvec(self, vector: Tensor) -> Tensor:
        """`J v` for v `[d]`."""
        return torch.func.jvp(self.function, (self.at,), (vector,))[1]

    def rmatvec(self, cotangent: Tensor) -> Tensor:
        """`J^T u` for u `[P]`."""
        return torch.func.vjp(self.function, self.at)[1](cotangent)[0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """`J V` for V `[d, k]`, gives `[P, k]`."""
        each = torch.vmap(self.matvec, in_dims=1, out_dims=1)
        return _joined([each(block) for block in vectors.split(self.chunk, dim=1)])

    def rmatmat(self, cotangents: Tensor) -> Tensor:
        """`J^T U` for U `[P, k]`, gives `[d, k]`."""
        each = torch.vmap(self.rmatvec, in_dims=1, out_dims=1)
        return _joined([each(block) for block in cotangents.split(self.chunk, dim=1)])

    def columns(self) -> Iterator[tuple[slice, Tensor]]:
        """The columns of J in blocks, each with its place: `(slice, [P, block])`."""
        size = self.shape[1]
        for first in range(0, size, self.chunk):
            last = min(size, first + self.chunk)
            directions = torch.zeros(size, last - first, dtype=self.at.dtype, device=self.at.device)
            directions[torch.arange(first, last), torch.arange(last - first)] = 1
            yield slice(first, last), self.matmat(directions)

    def dense(self) -> Tensor:
        """J itself `[P, d]`, by columns, or by rows where those are fewer."""
        equations, unknowns = self.shape
        if equations < unknowns:
            return self.rmatmat(torch.eye(equations, dtype=self.at.dtype, device=self.at.device)).T
        return torch.cat([block for _, block in self.columns()], dim=1)

    def gram(
        self,
        weights: Tensor | None = None,
        *,
        left: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """`J^T W J` `[d, d]`, exact up to rounding; J is never held.

        Args:
            weights: the diagonal of W `[P]`; None for the identity.
            left: a symmetric linear map of `[P, k]` in place of W, for what is not diagonal.

        Returns:
            A symmetric matrix. Its rounding error is about `eps s_max^2`, so singular values below
            `sqrt(eps) s_max` do not survive the square: see `spectra.refined`.
        """
        gram = torch.empty(self.shape[1], self.shape[1], dtype=self.at.dtype, device=self.at.device)
        for place, block in self.columns():
            image = block if weights is None else weights[:, None] * block
            gram[:, place] = self.rmatmat(image if left is None else left(image))
        return (gram + gram.T) / 2

    def linear_operator(self) -> "LinearOperator":
        """The same for scipy, of float64 arrays on the processor."""
        from scipy.sparse.linalg import LinearOperator

        def on_arrays(product: Callable[[Tensor], Tensor]) -> Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]:
            def applied(array: "NDArray[np.float64]") -> "NDArray[np.float64]":
                given = torch.as_tensor(array, dtype=self.at.dtype, device=self.at.device)
                return product(given).detach().cpu().double().numpy()

            return applied

        made = cast("Callable[..., LinearOperator]", LinearOperator)  # its stubs know no functions
        return made(
            shape=self.shape,
            dtype="float64",
            matvec=on_arrays(lambda vector: self.matvec(vector.reshape(-1))),
            rmatvec=on_arrays(lambda cotangent: self.rmatvec(cotangent.reshape(-1))),
            matmat=on_arrays(self.matmat),
            rmatmat=on_arrays(self.rmatmat),
        )


@functools.cache
def _load_forward_mode() -> None:
    """The first use of forward mode in a process makes torch script its own rules, of which torch itself then warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.tanh, (torch.zeros(1),), (torch.zeros(1),))


def _joined(blocks: list[Tensor]) -> Tensor:
    # `vmap` lays each product out in one piece, and a single block needs no transposed copy.
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
