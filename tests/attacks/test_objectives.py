"""Objectives: zero at equality to the bit, numbers by hand, gradients that are finite where they must be."""

import math

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.objectives import (
    OBJECTIVES,
    AbsoluteAndSquaredDistance,
    GaussianKernelDistance,
    Objective,
    WeightedSquaredDistance,
    absolute_distance,
    cosine_distance,
    layer_cosine_distance,
    normalized_squared_distance,
    squared_distance,
    sum_of_layer_distances,
)
from gradleak.seeds import stage_generator
from gradleak.threat import simulator
from tests.problems import Problem, problems


def update(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = stage_generator(seed, "update")
    shapes = {"a": (3, 4), "b": (5,), "c": (2, 2, 2)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }


def name_of(objective: object) -> str:
    return getattr(objective, "__name__", type(objective).__name__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_zero_to_the_bit_at_equality_with_a_finite_gradient(objective: Objective, dtype: torch.dtype) -> None:
    observed = update(0, dtype) | {"zero": torch.zeros(3, dtype=dtype), "flat": torch.full((4,), 0.3, dtype=dtype)}
    simulated = {name: value.clone().requires_grad_() for name, value in observed.items()}
    value = objective(simulated, observed)
    assert float(value.detach()) == 0.0
    gradients = torch.autograd.grad(value, list(simulated.values()))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.name)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_zero_at_the_true_batch_and_not_elsewhere(objective: Objective, problem: Problem) -> None:
    observation, truth = gl.capture(problem.task, problem.inputs, problem.targets, client=problem.client)
    step = simulator(observation)
    variable = problem.task.encode(truth.inputs)
    targets = problem.task.target_probabilities(truth.targets)
    assert float(objective(step(variable, targets), observation.update.tensors)) == 0.0
    assert float(objective(step(variable.flip(0) * 0.9, targets), observation.update.tensors)) > 0


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_same_value_under_vmap(objective: Objective) -> None:
    observed, guesses = update(0), [update(seed) for seed in (1, 2)]
    stacked = {name: torch.stack([guess[name] for guess in guesses]) for name in observed}

    def one(simulated: dict[str, Tensor]) -> Tensor:
        return objective(simulated, observed)

    together = torch.vmap(one)(stacked)
    alone = torch.stack([objective(guess, observed) for guess in guesses])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


ONE = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 2.0])}
OTHER = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([4.0, 2.0])}


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (squared_distance, 9 + 16),
        (normalized_squared_distance, 25 / 29),
        (sum_of_layer_distances, 3 + 4),
        (absolute_distance, 7),
        (AbsoluteAndSquaredDistance(alpha=0.1), 25.7),
        (cosine_distance, 1 - (9 + 4 + 0 + 4) / math.sqrt(30 * 29)),
        (layer_cosine_distance, (1 - 13 / (5 * math.sqrt(10)) + 1 - 4 / (2 * math.sqrt(20))) / 2),
        (WeightedSquaredDistance(), (9 / 25 + 16 / 4) / 2),
        (WeightedSquaredDistance(decay=0.5), (9 / 25 * 2 + 16 / 4) / 3),
        # variances about the means 3.5 and 1, times two entries: 0.5 and 2
        (GaussianKernelDistance(), 1 - math.exp(-9 / 0.5) + 1 - math.exp(-16 / 2)),
        (GaussianKernelDistance(decay=3.0), 1 - math.exp(-9 / 0.5) + 3 * (1 - math.exp(-16 / 2))),
    ],
    ids=lambda value: name_of(value) if callable(value) else "",
)
def test_by_hand(objective: Objective, value: float) -> None:
    assert float(objective(OTHER, ONE)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("objective", [cosine_distance, layer_cosine_distance], ids=name_of)
def test_cosines_ignore_the_scale_and_reach_two_at_the_opposite(objective: Objective) -> None:
    observed = update(0)
    assert float(objective({name: 7 * value for name, value in observed.items()}, observed)) < 1e-30
    assert float(objective({name: -value for name, value in observed.items()}, observed)) == pytest.approx(2)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize(
    "objective", [normalized_squared_distance, WeightedSquaredDistance(), GaussianKernelDistance()], ids=name_of
)
def test_objectives_without_units_ignore_a_common_scale(objective: Objective, scale: float) -> None:
    def scaled(seed: int) -> dict[str, Tensor]:
        return {name: scale * value for name, value in update(seed).items()}

    torch.testing.assert_close(objective(scaled(1), scaled(0)), objective(update(1), update(0)))


def test_a_simulated_update_of_zero_is_no_division_by_zero() -> None:
    simulated = {name: torch.zeros_like(value).requires_grad_() for name, value in update(0).items()}
    value = layer_cosine_distance(simulated, update(0))
    assert float(value.detach()) == pytest.approx(0.5)
    gradients = torch.autograd.grad(value, list(simulated.values()))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
