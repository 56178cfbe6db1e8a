"""The attack for smooth networks: photographs come back from both initializations, and budgets hold."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.descent import Descent, descend
from gradleak.attacks.layout import Layout
from gradleak.attacks.polish import polish, update_residual
from gradleak.attacks.smooth import staged
from gradleak.optim import LevenbergMarquardt, Limits
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet
from tests.problems import images, labels, small_lenet


def psnr(result: gl.Reconstruction, truth: gl.Truth) -> float:
    return float(-10 * torch.log10((result.inputs - truth.inputs).square().mean()))


@pytest.mark.slow
@pytest.mark.parametrize("initialization", ["default", "uniform"])
def test_a_photograph_comes_back_above_30_db_in_a_few_hundred_evaluations(initialization: str) -> None:
    inputs, targets = load("photographs").sample(1, seed=3)
    model = lenet(10, initialization=initialization, seed=3)  # pyright: ignore[reportArgumentType]
    task = gl.Task(model, gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, truth = gl.capture(task, inputs, targets)
    result = staged(polishing=False, max_evaluations=500)(observation, seed=0)
    assert torch.equal(result.targets, targets)
    assert psnr(result, truth) > 30
    assert result.status == "converged"
    assert result.evaluations <= 500


def test_polishing_adds_digits() -> None:
    observation, truth = gl.capture(small_lenet(), images(1), labels(1))
    rough = staged(polishing=False, max_evaluations=120)(observation)
    fine = polish(observation, rough, limits=Limits(products=400), solver=LevenbergMarquardt(dense_below=0))
    dense = polish(observation, rough, limits=Limits(products=4 * 768))
    before, after, exact = (psnr(result, truth) for result in (rough, fine, dense))
    assert after > before + 3
    assert exact > 75
    assert fine.objective < 0.1 * rough.objective
    assert fine.evaluations <= rough.evaluations + 2 * 400 + 2


def test_polishing_a_batch_moves_its_labels_too() -> None:
    observation, _ = gl.capture(small_lenet(), images(2), labels(2))
    rough = staged(polishing=False, max_evaluations=100)(observation)
    fine = polish(observation, rough, limits=Limits(products=200), solver=LevenbergMarquardt(dense_below=0))
    assert fine.objective < rough.objective
    assert not torch.equal(fine.target_probabilities, rough.target_probabilities)
    torch.testing.assert_close(fine.target_probabilities.sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_residual_is_the_normalized_distance() -> None:
    observation, truth = gl.capture(small_lenet(), images(1), labels(1))
    layout = Layout.of(observation, 1, observation.task.target_probabilities(truth.targets))
    residual = update_residual(observation, layout)
    assert float(residual(truth.inputs.flatten()).abs().max()) == 0
    rough = staged(polishing=False, max_evaluations=20)(observation)
    assert float(residual(rough.variable.flatten()).square().sum()) == pytest.approx(rough.objective, rel=1e-9)


@pytest.mark.parametrize("limit", [1, 17, 90])
def test_evaluation_budget_holds_over_rounds_and_polish(limit: int) -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    attack = staged(round_evaluations=20, max_evaluations=limit)
    result = attack(observation)
    # A Levenberg-Marquardt step computes one residual and two products before it can look at what is left.
    assert limit - 2 <= result.evaluations <= limit + 8
    assert result.objective == min(result.history.objective)


def test_same_seed_same_bits() -> None:
    observation, _ = gl.capture(small_lenet(), images(2), labels(2))
    runs = [staged(max_evaluations=60)(observation, seed=seed).variable for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_time_budget_holds() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    assert staged(max_seconds=0.5)(observation).seconds < 0.7


def test_not_applicable_is_passed_on() -> None:
    observation, _ = gl.capture(small_lenet(), images(2), labels(2), threat=gl.ThreatModel(batch_size_known=False))
    result = staged()(observation)
    assert (result.status, result.evaluations) == ("not_applicable", 0)
    assert polish(observation, result) is result


def saturated() -> tuple[gl.Observation, gl.Truth]:
    """A wide tanh network, whose units are mostly saturated."""
    inputs, targets = load("photographs").resized(16).sample(1, seed=1)
    return gl.capture(small_lenet(activation=nn.Tanh, initialization="uniform"), inputs.double(), targets)


@pytest.mark.slow
def test_a_saturated_network_gives_in_from_the_classifier_down() -> None:
    observation, truth = saturated()
    # The same evaluations on the whole network stay stuck.
    stuck = staged(restarts=1, layerwise=False, polishing=False, max_evaluations=300)(observation)
    assert stuck.objective > 1e-3
    assert psnr(stuck, truth) < 30
    result = descend(
        observation, stuck, torch.full((1, 3, 16, 16), 0.5), settings=Descent(image_evaluations=1000, products=1)
    )
    assert psnr(result, truth) > 50
    assert result.objective < 1e-6
    assert result.objective == min(result.history.objective)


def test_descent_leaves_batches_and_other_networks_alone() -> None:
    observation, _ = gl.capture(small_lenet(), images(2), labels(2))
    rough = staged(restarts=1, polishing=False, max_evaluations=5)(observation)
    assert descend(observation, rough, rough.variable) is rough


@pytest.mark.parametrize("limit", [1, 50, 700])
def test_descent_keeps_its_evaluation_budget(limit: int) -> None:
    observation, _ = saturated()
    rough = staged(restarts=1, layerwise=False, polishing=False, max_evaluations=5)(observation)
    result = descend(observation, rough, rough.variable, max_evaluations=limit)
    assert 5 < result.evaluations <= 5 + limit + 8
    assert result.objective <= rough.objective


def test_descent_without_the_classifiers_gradient_does_not_apply() -> None:
    observation, _ = saturated()
    rough = staged(restarts=1, layerwise=False, polishing=False, max_evaluations=5)(observation)
    kept = {name: tensor for name, tensor in observation.update.tensors.items() if not name.startswith("linear")}
    partial = replace(observation, update=gl.Update(kept, observation.update.kind))
    assert descend(partial, rough, rough.variable).variable is rough.variable
