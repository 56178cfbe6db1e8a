"""Products by plain automatic differentiation, against the dense Jacobian, and operations that `torch.func` refuses."""

import pytest
import torch
from torch import Tensor

from gradleak.linalg import JacobianOperator, RecordedJacobian


class Cube(torch.autograd.Function):
    """Without a rule for `torch.func`; the backward pass is `factor * x^2` times what comes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, factor: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        ctx.factor = factor  # pyright: ignore[reportAttributeAccessIssue]
        return x**3

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        return ctx.factor * x**2 * g, None  # pyright: ignore[reportAttributeAccessIssue]


class Unbatched(Cube):
    """Looks at its numbers, which `vmap` does not allow."""

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert bool(g.detach().isfinite().all())
        return Cube.backward(ctx, g)


MATRIX = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
AT = torch.tensor([0.3, -0.5, 0.8, 1.1], dtype=torch.float64)


def plain(x: Tensor) -> Tensor:
    return (MATRIX @ (x**3)).sin()


def applied(function: type[Cube], x: Tensor, factor: float = 3.0) -> Tensor:
    return function.apply(x, factor)  # pyright: ignore[reportReturnType, reportUnknownMemberType, reportUnknownVariableType]


def by(function: type[Cube], factor: float = 3.0) -> RecordedJacobian:
    return RecordedJacobian(lambda x: (MATRIX @ applied(function, x, factor)).sin(), AT)


@pytest.mark.parametrize("function", [Cube, Unbatched])
def test_products_are_those_of_the_dense_jacobian(function: type[Cube]) -> None:
    operator, wanted = by(function), torch.autograd.functional.jacobian(plain, AT)
    assert isinstance(wanted, Tensor)
    assert operator._batches == (function is Cube)  # pyright: ignore[reportPrivateUsage]
    right, left = torch.eye(4, dtype=torch.float64), torch.eye(7, dtype=torch.float64)
    assert torch.allclose(operator.matmat(right), wanted, atol=1e-12)
    assert torch.allclose(operator.rmatmat(left), wanted.T, atol=1e-12)
    assert torch.allclose(operator.matvec(right[:, 1]), wanted[:, 1], atol=1e-12)
    assert torch.allclose(operator.rmatvec(left[2]), wanted[2], atol=1e-12)
    assert torch.allclose(operator.dense(), wanted, atol=1e-12)
    assert torch.allclose(operator.gram(), wanted.T @ wanted, atol=1e-12)
    assert operator.agrees_with_differences()


def test_what_it_is_there_for() -> None:
    with pytest.raises(RuntimeError, match="setup_context"):
        JacobianOperator(lambda x: applied(Cube, x), AT).matvec(AT)


def test_a_backward_pass_that_is_no_derivative_is_noticed() -> None:
    assert not by(Cube, factor=3.1).agrees_with_differences()


def test_functions_of_nothing_have_a_jacobian_of_zeros() -> None:
    operator = RecordedJacobian(lambda x: 0 * x[:3] + 2, AT)
    assert float(operator.matmat(torch.ones(4, 2, dtype=torch.float64)).abs().max()) == 0
    assert operator.agrees_with_differences()
