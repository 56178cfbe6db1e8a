"""Clients that by their settings send one gradient are attacked as such, and no others."""

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.disturbance import is_plain, undisturbed
from gradleak.attacks.equivalent import one_gradient
from gradleak.clients import DPSGD, Aggregate, Client, Gradient, LocalSGD
from gradleak.threat import simulator
from gradleak.zoo.models import mlp
from tests.problems import images, labels, normed_net, small_lenet, task_of

SGD = LocalSGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


def observed(client: Client, count: int = 4, task: gl.Task | None = None) -> gl.Observation:
    return gl.capture(task or small_lenet(), images(count), labels(count), client=client)[0]


@pytest.mark.parametrize(
    ("client", "count"),
    [
        (LocalSGD(lr=0.3), 4),
        (SGD, 4),
        (Aggregate([Gradient()], count=2), 4),
        (Aggregate([Gradient()], count=3, weighting="examples"), 4),
        (Aggregate([SGD], count=2), 4),
        (DPSGD(clip=0.01), 1),
        (DPSGD(clip=100.0, expected_batch_size=8), 1),
    ],
    ids=repr,
)
def test_it_is_the_gradient_of_all_examples(client: Client, count: int) -> None:
    observation = observed(client, count)
    found = one_gradient(observation)
    assert found is not None
    simpler, why = found
    assert why
    assert isinstance(simpler.client, Gradient)
    # The slack in opacus' clipping is part of the scale, so it leaves nothing behind.
    expected = observed(Gradient(), count).update.tensors
    for name, value in simpler.update.tensors.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-10)
    simulated = simulator(simpler)(images(count), simpler.task.target_probabilities(labels(count)))
    torch.testing.assert_close(simulated["linear.weight"], expected["linear.weight"])


def test_batch_statistics_are_those_of_each_client() -> None:
    task = task_of(normed_net(nn.BatchNorm2d))
    observation = observed(Aggregate([Gradient(mode="train")], count=2), task=task)
    found = one_gradient(observation)
    assert found is not None
    simulated = simulator(found[0])(images(4), task.target_probabilities(labels(4)))
    for name, value in observation.update.tensors.items():
        torch.testing.assert_close(simulated[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("client", "count"),
    [
        (Gradient(), 4),
        (LocalSGD(lr=0.1, epochs=2), 4),
        (LocalSGD(lr=0.1, batch_size=2), 4),
        (Aggregate([Gradient()], count=3), 4),  # of 2, 1 and 1 examples, weighed alike
        (Aggregate([LocalSGD(lr=0.1), LocalSGD(lr=0.2)]), 4),
        (Aggregate([DPSGD(clip=0.1)], count=2), 4),
        (DPSGD(clip=0.01), 2),
        (DPSGD(clip=0.01, noise_multiplier=0.1), 1),
    ],
    ids=repr,
)
def test_others_stay_what_they_are(client: Client, count: int) -> None:
    assert one_gradient(observed(client, count)) is None


def test_a_soft_target_under_clipping_is_not_guessed() -> None:
    soft = torch.full((1, 10), 0.1, dtype=torch.float64)
    observation, _ = gl.capture(small_lenet(), images(1), soft, client=DPSGD(clip=0.01))
    assert one_gradient(observation) is None


def test_noise_disturbs_whoever_adds_it() -> None:
    assert undisturbed(observed(DPSGD(clip=1.0), 2))
    assert not undisturbed(observed(DPSGD(clip=1.0, noise_multiplier=1.0), 2))
    assert not undisturbed(observed(Aggregate([DPSGD(clip=1.0, noise_multiplier=1.0)], count=2), 2))
    assert is_plain(observed(Gradient(), 2))
    assert not is_plain(observed(DPSGD(clip=1.0), 2))
    assert not is_plain(observed(Gradient(mode="train"), 2, task_of(normed_net(nn.BatchNorm2d))))


def mean_psnr(observation: gl.Observation, truth: Tensor, **limits: float) -> float:
    found = gl.attacks.auto(**limits)(observation)  # pyright: ignore[reportArgumentType]
    error = (found.inputs - truth).square().flatten(1).mean(dim=1)
    return float((-10 * error.clamp_min(1e-15).log10()).mean())


@pytest.mark.parametrize("client", [DPSGD(clip=0.01), LocalSGD(lr=0.1), Aggregate([Gradient()], count=1)], ids=repr)
def test_auto_finds_the_image_behind_it(client: Client) -> None:
    assert mean_psnr(observed(client, 1), images(1), max_seconds=10) > 60


def test_linear_layers_need_only_the_direction() -> None:
    rows = images(1, (3, 4, 4)).flatten(1)
    task = gl.Task(mlp(48, (12,), 10, seed=0).double(), gl.TabularSpace(48), num_classes=10)
    observation, _ = gl.capture(task, rows, labels(1), client=DPSGD(clip=0.01))
    found = gl.attacks.linear_layer()(observation)
    torch.testing.assert_close(found.inputs, rows, rtol=1e-9, atol=1e-9)


def test_under_noise_searches_run_instead_of_algebra() -> None:
    observation = observed(DPSGD(clip=0.1, noise_multiplier=0.1), 1)
    found = gl.attacks.auto(max_seconds=3)(observation)
    assert found.status != "not_applicable"
    assert any("search for smooth networks" in line for line in found.trace)
    assert not any("algebra determines" in line for line in found.trace)
