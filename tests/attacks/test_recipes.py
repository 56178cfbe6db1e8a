"""Every recipe holds its paper's numbers, and Inverting Gradients follows its released loop."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import (
    GaussianKernelDistance,
    cosine_distance,
    squared_distance,
    sum_of_layer_distances,
)
from gradleak.attacks.priors import (
    Weighted,
    batch_norm_statistics,
    euclidean_norm,
    mean_absolute_differences,
    task_loss,
    total_variation,
)
from gradleak.bench.released_inverting_gradients import released_inverting_gradients_loop
from gradleak.optim import LBFGS, Adam, WarmCosine, tenfold_drops
from gradleak.seeds import stage_generator
from tests.problems import images, labels, normed_net, small_lenet

RECIPES = [gl.attacks.cpl, gl.attacks.inverting_gradients, gl.attacks.sapag, gl.attacks.gradinversion]


def test_inverting_gradients_holds_the_released_numbers() -> None:
    attack = gl.attacks.inverting_gradients()
    assert attack.optimizer(1) == Adam(4800, lr=0.1, signed=True, schedule=tenfold_drops)
    assert attack.objective is cosine_distance
    assert attack.priors == (Weighted(0.1, total_variation),)
    assert (attack.boxed, attack.restarts, attack.labels, attack.stop_at) == (True, 1, "row_sum_sign", None)


def test_cpl_holds_its_numbers() -> None:
    attack = gl.attacks.cpl()
    assert attack.optimizer(1) == LBFGS(outer_steps=300, inner_steps=20, lr=1.0, history=100)
    assert attack.objective is squared_distance
    assert attack.priors == (Weighted(1.0, task_loss),)
    start = attack.start((1, 3, 32, 32), stage_generator(0, "start"))
    assert torch.equal(start[..., :16], start[..., 16:])
    assert (attack.boxed, attack.labels) == (True, "row_sum_sign")


def test_sapag_holds_its_numbers() -> None:
    attack = gl.attacks.sapag()
    assert attack.objective == GaussianKernelDistance()
    assert attack.optimizer(1) == Adam(2000, lr=0.01, weight_decay=0.01)
    assert attack.labels == "joint"


def test_gradinversion_holds_its_numbers() -> None:
    attack = gl.attacks.gradinversion()
    assert attack.optimizer(1) == Adam(20_000, lr=0.1, schedule=WarmCosine(50), noise=0.2)
    assert attack.priors == (
        Weighted(1e-4, total_variation),
        Weighted(1e-6, euclidean_norm),
        Weighted(0.1, batch_norm_statistics),
    )
    assert (attack.group_weight, attack.restarts, attack.labels) == (0.01, 4, "row_minimum")
    one, other = {"a": torch.tensor([3.0, 0.0])}, {"a": torch.tensor([0.0, 4.0])}
    assert float(attack.objective(one, other)) == pytest.approx(1e-3 * float(sum_of_layer_distances(one, other)))


@pytest.mark.parametrize("signed", [True, False])
def test_inverting_gradients_follows_the_released_loop(signed: bool) -> None:
    task = small_lenet(activation=nn.ReLU)
    targets = torch.tensor([3, 8])
    observation, _ = gl.capture(task, images(2), targets, threat=gl.ThreatModel(labels_known=True))
    # A schedule of 16 steps, so that all three drops come; the last step's point is evaluated by ours only.
    ours = gl.attacks.inverting_gradients(steps=16, signed=signed)(observation, seed=5)
    start = torch.randn((2, 3, 16, 16), generator=stage_generator(5, "attack/start/0"), dtype=torch.float64)
    _, theirs = released_inverting_gradients_loop(
        task.model,
        list(observation.update.tensors.values()),
        targets,
        start,
        iterations=16,
        total_variation=0.1,
        signed=signed,
        run=16,
    )
    assert len(ours.history.objective) == 17
    torch.testing.assert_close(torch.tensor(ours.history.objective[:16]), torch.tensor(theirs), rtol=1e-9, atol=0)
    assert theirs[-1] < 0.9 * theirs[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_lowers_its_objective_and_keeps_its_budget(recipe: Callable[..., Inversion]) -> None:
    observation, _ = gl.capture(small_lenet(), images(1), torch.tensor([4]))
    result = recipe(restarts=2, max_evaluations=60)(observation, seed=0)
    assert result.attack == recipe.__name__
    assert result.evaluations <= 60
    assert result.objective < result.history.objective[0]
    assert bool(((result.inputs >= 0) & (result.inputs <= 1)).all())
    if recipe is not gl.attacks.sapag:
        assert result.targets.tolist() == [4]


@pytest.mark.parametrize("recipe", [gl.attacks.cpl, gl.attacks.inverting_gradients])
def test_a_batch_without_labels_is_not_applicable(recipe: Callable[..., Inversion]) -> None:
    result = recipe()(gl.capture(small_lenet(), images(2), labels(2))[0])
    assert result.status == "not_applicable"
    assert "one example, and the batch has 2" in result.message


def test_gradinversion_recovers_distinct_labels_and_refuses_more_examples_than_classes() -> None:
    attack = gl.attacks.gradinversion(max_evaluations=8)
    observation, _ = gl.capture(small_lenet(), images(2), torch.tensor([7, 2]))
    assert attack(observation).targets.tolist() == [2, 7]
    refused = attack(gl.capture(small_lenet(), images(11), labels(11))[0])
    assert "11 examples have 10 classes" in refused.message


def test_the_group_term_draws_seeds_together_and_batch_norm_counts() -> None:
    task = gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=10)
    observation, _ = gl.capture(task, images(1), labels(1))

    def first_value(**weights: float) -> float:
        attack = gl.attacks.gradinversion(max_evaluations=4, restarts=2, **weights)  # pyright: ignore[reportArgumentType]
        return attack(observation, seed=0).history.objective[0]

    assert first_value() > first_value(group_weight=0.0) > first_value(group_weight=0.0, batch_norm_weight=0.0)


def test_boxed_recipes_never_leave_the_bounds() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    variable = gl.attacks.inverting_gradients(max_evaluations=40)(observation).variable
    assert float(variable.min()) >= 0
    assert float(variable.max()) <= 1
    assert float(mean_absolute_differences(variable)) > 0
