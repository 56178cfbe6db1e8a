"""Separation of a batch at a softmax head: exact features, the certificate, and its limits."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.closed_form.separation import Separation, separate
from gradleak.attacks.closed_form.separation_equations import HeadProblem
from gradleak.zoo.models import lenet
from tests.problems import images


def problem_of(
    features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, precision: float = 1e-12
) -> tuple[HeadProblem, Tensor]:
    """The gradient of a linear head, written out: dW = R^T A, db = R^T 1."""
    targets = torch.nn.functional.one_hot(labels, len(weight)).double()
    residuals = (torch.softmax(features @ weight.T + bias, dim=1) - targets) / len(labels)
    scales = torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    return HeadProblem(
        residuals.T @ features, residuals.sum(dim=0), weight, bias, targets, scales, precision
    ), residuals


def random_head(count: int, classes: int, size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(count, size, generator=generator, dtype=torch.float64)
    weight = 0.5 * torch.randn(classes, size, generator=generator, dtype=torch.float64)
    return features, weight, 0.1 * torch.randn(classes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_distinct_labels_are_separated_exactly(count: int) -> None:
    features, weight, bias = random_head(count, 10)
    problem, residuals = problem_of(features, weight, bias, torch.arange(10)[-count:])
    found = separate(problem)
    assert found.certified
    torch.testing.assert_close(found.features, features, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.residuals, residuals, rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [16, 32])
def test_hundred_classes_float32(count: int) -> None:
    model = lenet(100, input_size=16)
    task = gl.Task(model, gl.ImageSpace((3, 16, 16)), 100)
    batch = images(count).float()
    classes = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:count]
    observation, _ = gl.capture(task, batch, classes)
    update, state = observation.update.tensors, observation.state.parameters
    problem = HeadProblem(
        update["linear.weight"].double(),
        update["linear.bias"].double(),
        state["linear.weight"].double(),
        state["linear.bias"].double(),
        torch.nn.functional.one_hot(classes, 100).double(),
        torch.full((count,), 1 / count, dtype=torch.float64),
        6e-8,
    )
    found = separate(problem)
    features = model[:-1](batch).double().detach()
    assert found.certified
    assert float((found.features - features).abs().max()) < 1e-4
    assert float((found.features - features).square().mean().sqrt()) < 2e-6


def test_repeated_label_needs_jitter_and_is_separated_too() -> None:
    features, weight, bias = random_head(4, 10, seed=2)
    problem, _ = problem_of(features, weight, bias, torch.tensor([3, 3, 5, 8]))
    found = separate(problem)
    assert found.certified
    distance = torch.cdist(found.features, features)
    assert float(distance.min(dim=1).values.max()) < 1e-5
    assert sorted(distance.argmin(dim=1).tolist()) == [0, 1, 2, 3]


def test_wrong_labels_are_not_certified() -> None:
    features, weight, bias = random_head(4, 10)
    right, _ = problem_of(features, weight, bias, torch.tensor([0, 2, 4, 6]))
    wrong = torch.nn.functional.one_hot(torch.tensor([0, 2, 4, 7]), 10).double()
    found = separate(replace(right, targets=wrong))
    assert not found.certified
    assert found.starts == 8


def test_certificate_holds_the_rounding_it_is_given() -> None:
    features, weight, bias = random_head(3, 10)
    problem, _ = problem_of(features, weight, bias, torch.tensor([1, 2, 3]), precision=1e-5)
    noise = torch.randn(problem.weight_gradient.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rms = problem.weight_gradient.square().mean().sqrt()
    mild = replace(problem, weight_gradient=problem.weight_gradient + 1e-5 * rms * noise)
    strong = replace(problem, weight_gradient=problem.weight_gradient + 1e-1 * rms * noise)
    assert separate(mild).certified
    assert not separate(strong).certified


def test_std_predicts_the_error() -> None:
    features, weight, bias = random_head(5, 10, seed=3)
    problem, _ = problem_of(features, weight, bias, torch.tensor([0, 0, 4, 7, 9]), precision=1e-6)
    generator = torch.Generator().manual_seed(6)
    # Ten times the precision is what the equations allow for.
    sigma = 1e-5 * problem.weight_gradient.square().mean().sqrt()
    noise = torch.randn(problem.weight_gradient.shape, generator=generator, dtype=torch.float64)
    found: Separation = separate(replace(problem, weight_gradient=problem.weight_gradient + sigma * noise))
    distance = torch.cdist(found.features, features)
    error = distance.min(dim=1).values / features.shape[1] ** 0.5
    assert 0.1 < float(error.max() / found.std.max()) < 10


def test_too_many_examples_are_refused() -> None:
    features, weight, bias = random_head(4, 10)
    problem, _ = problem_of(features, weight, bias, torch.arange(4))
    narrow = replace(problem, weight_gradient=problem.weight_gradient[:, :3])
    with pytest.raises(ValueError, match="4 examples do not fit"):
        separate(narrow)


def test_what_the_equations_leave_open_stays_typical() -> None:
    features, weight, bias = random_head(6, 10, seed=4)
    near = features.mean(dim=0) + 1e-3 * (features - features.mean(dim=0))
    problem, _ = problem_of(near, weight, bias, torch.tensor([1, 1, 1, 5, 5, 7]), precision=1e-6)
    noise = torch.randn(problem.weight_gradient.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    rounded = replace(
        problem, weight_gradient=problem.weight_gradient + 1e-6 * problem.weight_gradient.square().mean().sqrt() * noise
    )
    free, tied = separate(rounded), separate(replace(rounded, typical=near))
    assert free.certified
    assert tied.certified
    assert float((tied.features - near).abs().max()) < 0.3 * float((free.features - near).abs().max())
    assert float(tied.std.max()) < 0.1 * float(free.std.max())
