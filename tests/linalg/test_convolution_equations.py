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
def test_preconditioner_inverts_gradient_equations_plus_a_tenth_of_the_mean_output_equation(
    geometry: tuple[int, ...],
) -> None:
    problem = equations(*geometry)
    precondition, variance = problem.preconditioner()
    size = 2 * 3 * problem.size[0] * problem.size[1]
    eye = torch.eye(size, dtype=torch.float64).view(size, 2, 3, *problem.size)
    gradient = torch.stack([weight_gradient(problem, row) for row in eye]).flatten(1)
    # The mean without regard to the borders, where the kernel sees padding.
    energy = (problem.weight.square().sum((1, 2, 3)) * problem.output_precision.sum((2, 3))).sum(1) / (size // 2)
    matrix = 0.7 * gradient @ gradient.T + 0.1 * torch.diag(energy.repeat_interleave(size // 2))
    applied = torch.stack([precondition(row).flatten() for row in eye])
    torch.testing.assert_close(applied @ matrix, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, torch.linalg.inv(matrix).diagonal().view(2, -1).mean(dim=1), rtol=1e-6, atol=0)


def test_large_maps_get_a_scaled_identity() -> None:
    problem = equations(1, 2, 1, 48, 48)
    precondition, scales = problem.preconditioner()
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert float(scales.min()) > 0
    torch.testing.assert_close(precondition(x), scales.view(2, 1, 1, 1) * x)
