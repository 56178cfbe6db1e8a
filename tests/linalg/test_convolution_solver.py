"""Solving the equations of a convolution against dense matrices."""

import pytest
import torch
from torch import Tensor

from gradleak.linalg import ConvolutionEquations, solve_convolution
from gradleak.linalg.convolution_solver import GradientInverse, OutputsInverse, output_diagonal
from tests.linalg.test_convolution_equations import GEOMETRIES, equations, weight_gradient


def basis(problem: ConvolutionEquations) -> Tensor:
    """Every unknown by itself, `[D, N, I, H, W]`."""
    size = torch.Size(problem.shape).numel()
    return torch.eye(size, dtype=torch.float64).view(size, *problem.shape)


def dense_normal(problem: ConvolutionEquations) -> Tensor:
    return torch.stack([problem.normal(row).flatten() for row in basis(problem)])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_output_diagonal(geometry: tuple[int, ...]) -> None:
    problem = equations(*geometry)
    diagonal = torch.stack([(problem.output_precision * problem.outputs(row).square()).sum() for row in basis(problem)])
    expected = diagonal.view(problem.shape).mean(dim=1, keepdim=True)
    torch.testing.assert_close(output_diagonal(problem), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradient_inverse(geometry: tuple[int, ...]) -> None:
    problem = equations(*geometry)
    inverse = GradientInverse.of(problem, 0.1)
    assert inverse is not None
    gradient = torch.stack([weight_gradient(problem, row) for row in basis(problem)]).flatten(1)
    matrix = 0.7 * gradient @ gradient.T + torch.diag(inverse.ridge.expand(problem.shape).flatten())
    applied = torch.stack([inverse(row).flatten() for row in basis(problem)])
    torch.testing.assert_close(applied @ matrix, torch.eye(len(matrix), dtype=torch.float64), rtol=0, atol=1e-10)
    diagonal = torch.linalg.inv(matrix).diagonal().view(problem.shape)
    torch.testing.assert_close(inverse.variance, diagonal.mean(dim=(1, 2, 3)))
    seen = output_diagonal(problem)
    least = 0.1 * seen.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(inverse.ridge, 0.1 * torch.maximum(seen, least))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("geometry", [(2, 2, 1, 9, 8), (3, 0, 1, 9, 8), (3, 1, 2, 9, 8)])
def test_few_outputs_follow_exactly(geometry: tuple[int, ...], count: int) -> None:
    problem = equations(*geometry, count=count)
    problem.output_precision[:, 1] = 0
    inverse = OutputsInverse.of(problem)
    assert inverse is not None
    matrix = dense_normal(problem) + torch.diag(inverse.gradient.ridge.expand(problem.shape).flatten())
    applied = torch.stack([inverse(row).flatten() for row in basis(problem)])
    torch.testing.assert_close(applied @ matrix, torch.eye(len(matrix), dtype=torch.float64), rtol=0, atol=1e-7)
    assert float(inverse.variance().mean()) == pytest.approx(float(torch.linalg.inv(matrix).diagonal().mean()), rel=0.5)


def test_many_outputs_are_left_to_the_iteration() -> None:
    assert OutputsInverse.of(equations(1, 1, 1, 7, 9)) is None


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_solution_obeys_the_normal_equations(geometry: tuple[int, ...], count: int) -> None:
    problem = equations(*geometry, count=count)
    x = torch.randn(problem.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    right_side = problem.right_side(problem.outputs(x), weight_gradient(problem, x))
    found = solve_convolution(problem, right_side, share=1e-20, max_steps=400)
    # Singular where the unknowns are too many, and then slow.
    torch.testing.assert_close(problem.normal(found.x), right_side, rtol=0, atol=1e-5 * float(right_side.abs().max()))


def test_determined_unknowns_are_found() -> None:
    problem = equations(1, 1, 1, 7, 9, count=1)
    x = torch.randn(problem.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    right_side = problem.right_side(problem.outputs(x), weight_gradient(problem, x))
    torch.testing.assert_close(solve_convolution(problem, right_side, share=1e-20, max_steps=400).x, x)


def test_large_maps_get_a_scaled_identity() -> None:
    problem = equations(1, 2, 1, 48, 48)
    assert GradientInverse.of(problem, 0.1) is None
    right_side = problem.normal(torch.ones(problem.shape, dtype=torch.float64))
    found = solve_convolution(problem, right_side, share=1e-12, max_steps=0)
    assert float(found.variance.min()) > 0
    assert found.steps == 0
