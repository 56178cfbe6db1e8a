"""Products with a Jacobian against the dense one of `torch.autograd.functional`."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gradleak.linalg import JacobianOperator

generator = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


MIX, FEW = random(23, 11), random(5, 23)


def many(x: Tensor) -> Tensor:
    return torch.tanh(MIX @ x) * x.sum().exp()


def few(x: Tensor) -> Tensor:
    return FEW @ many(x)


@pytest.mark.parametrize("function", [many, few])
@pytest.mark.parametrize("chunk", [None, 4])
def test_products_are_those_of_the_dense_matrix(function: Callable[[Tensor], Tensor], chunk: int | None) -> None:
    at = 0.3 * random(11)
    operator = JacobianOperator(function, at, chunk=chunk)
    dense: Tensor = torch.autograd.functional.jacobian(function, at)  # pyright: ignore[reportAssignmentType]
    equations, unknowns = operator.shape
    assert tuple(dense.shape) == (equations, unknowns)
    right, left, weights = random(unknowns, 6), random(equations, 6), random(equations).square()
    for got, wanted in (
        (operator.matvec(right[:, 0]), dense @ right[:, 0]),
        (operator.rmatvec(left[:, 0]), dense.T @ left[:, 0]),
        (operator.matmat(right), dense @ right),
        (operator.rmatmat(left), dense.T @ left),
        (operator.dense(), dense),
        (operator.gram(), dense.T @ dense),
        (operator.gram(weights), dense.T @ (weights[:, None] * dense)),
        (operator.gram(left=lambda rows: rows - left @ (left.T @ rows)), dense.T @ (dense - left @ (left.T @ dense))),
    ):
        assert float((got - wanted).abs().max()) < 1e-10 * float(wanted.abs().max())


def test_scipy_sees_the_same_operator() -> None:
    from scipy.sparse.linalg import svds

    at = 0.3 * random(11)
    operator = JacobianOperator(many, at)
    _, largest, _ = svds(operator.linear_operator(), k=2, rng=np.random.default_rng(0))
    wanted = torch.linalg.svdvals(operator.dense())[:2].flip(0).numpy()
    assert np.allclose(np.sort(largest), wanted, rtol=1e-8)


def test_blocks_are_small_where_a_product_is_long() -> None:
    assert JacobianOperator(lambda x: x[0] * torch.ones(2**22).to(x), random(3)).chunk == 4
