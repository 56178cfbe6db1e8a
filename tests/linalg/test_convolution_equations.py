"""The equations of a convolution's inputs against automatic differentiation and dense matrices."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from gradleak.linalg import ConvolutionEquations

# (stride, padding, dilation, height, width)
GEOMETRIES = [(1, 2, 1, 6, 5), (2, 2, 1, 8, 8), (2, 1, 1, 7, 9), (3, 0, 1, 9, 8), (2, 2, 2, 9, 8)]


def equations(
    stride: int, padding: int, dilation: int, height: int, width: int, count: int = 2
) -> ConvolutionEquations:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64)
    x = torch.zeros(count, 3, height, width, dtype=torch.float64)
    shape = conv2d(x, weight, stride=stride, padding=padding, dilation=dilation).shape
    return ConvolutionEquations(
        weight,
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.rand(shape, generator=generator, dtype=torch.float64),
        0.7,
        (height, width),
        (stride, stride),
        (padding, padding),
        (dilation, dilation),
    )


def weight_gradient(problem: ConvolutionEquations, x: Tensor) -> Tensor:
    weight = problem.weight.clone().requires_grad_()
    outputs = conv2d(x, weight, None, problem.stride, problem.padding, problem.dilation)
    (gradient,) = torch.autograd.grad((outputs * problem.cotangents).sum(), weight)
    return gradient


def weighted_squares(problem: ConvolutionEquations, x: Tensor) -> Tensor:
    outputs = conv2d(x, problem.weight, None, problem.stride, problem.padding, problem.dilation)
    weight = problem.weight.clone().requires_grad_()
    again = conv2d(x, weight, None, problem.stride, problem.padding, problem.dilation)
    (gradient,) = torch.autograd.grad((again * problem.cotangents).sum(), weight, create_graph=True)
    return (problem.output_precision * outputs.square()).sum() + problem.gradient_precision * gradient.square().sum()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_normal_product_is_half_the_gradient_of_the_weighted_squares(geometry: tuple[int, ...]) -> None:
    problem = equations(*geometry)
    x = torch.randn(2, 3, *problem.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x.requires_grad_()
    (doubled,) = torch.autograd.grad(weighted_squares(problem, x), x)
    expected = doubled / 2
    x = x.detach()
    torch.testing.assert_close(problem.normal(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_right_side_of_consistent_equations_is_the_normal_product(geometry: tuple[int, ...]) -> None:
    problem = equations(*geometry)
    x = torch.randn(2, 3, *problem.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    outputs = conv2d(x, problem.weight, None, problem.stride, problem.padding, problem.dilation)
    right_side = problem.right_side(outputs, weight_gradient(problem, x))
    torch.testing.assert_close(right_side, problem.normal(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradient_blocks_hold_the_whole_map(geometry: tuple[int, ...]) -> None:
    problem = equations(*geometry)
    x = torch.randn(2, 3, *problem.size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    seen: list[Tensor] = []
    squares = torch.zeros(())
    for pixels, block in problem.gradient_blocks():
        seen.append(pixels)
        squares = squares + torch.einsum("rnp,ncp->rc", block, x.flatten(2)[:, :, pixels]).square().sum()
    assert torch.cat(seen).sort().values.tolist() == list(range(problem.size[0] * problem.size[1]))
    torch.testing.assert_close(
        squares, weight_gradient(problem, x).square().sum(), rtol=1e-10, atol=0, check_dtype=False
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_bound_of_the_rank_is_that_of_the_blocks(geometry: tuple[int, ...]) -> None:
    problem = equations(*geometry)
    bound = sum(min(len(block), block.shape[1] * block.shape[2]) for _, block in problem.gradient_blocks())
    assert problem.most_gradient_equations() == 3 * bound


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_adjoint_is_the_transpose(geometry: tuple[int, ...]) -> None:
    problem = equations(*geometry)
    x = torch.randn(problem.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    outputs = problem.outputs(x)
    torch.testing.assert_close(
        (problem.adjoint_outputs(problem.cotangents) * x).sum(), (outputs * problem.cotangents).sum()
    )
