"""Algebra is believed only where nothing disturbs an update, and DP-SGD is attacked as far as its noise allows."""

import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.disturbance import is_plain, undisturbed
from gradleak.clients import DPSGD, Aggregate, Client, Gradient, LocalSGD
from gradleak.zoo.models import mlp
from tests.problems import images, labels, normed_net, small_lenet, task_of


def observed(client: Client, count: int = 1, task: gl.Task | None = None) -> gl.Observation:
    return gl.capture(task or small_lenet(), images(count), labels(count), client=client)[0]


def test_noise_disturbs_whoever_adds_it() -> None:
    noisy = DPSGD(clip=1.0, noise_multiplier=1.0)
    assert undisturbed(observed(DPSGD(clip=1.0)))
    assert not undisturbed(observed(noisy))
    assert not undisturbed(observed(Aggregate([noisy], count=2), 2))
    assert not undisturbed(observed(Aggregate([Aggregate([noisy], count=2)]), 2))


def test_only_the_gradient_of_the_model_as_it_stands_is_plain() -> None:
    assert is_plain(observed(Gradient(), 2))
    assert not is_plain(observed(DPSGD(clip=1.0), 2))
    assert not is_plain(observed(LocalSGD(lr=0.1, epochs=2)))
    normed = task_of(normed_net(nn.BatchNorm2d, 0.3))
    assert is_plain(observed(Gradient(dropout="off"), 2, normed))
    assert not is_plain(observed(Gradient(dropout="fixed_mask"), 2, normed))
    assert not is_plain(observed(Gradient(dropout="off", mode="train"), 2, normed))


def test_a_clipped_image_is_found_by_algebra() -> None:
    found = gl.attacks.auto(max_seconds=10)(observed(DPSGD(clip=0.01)))
    torch.testing.assert_close(found.inputs, images(1), rtol=0, atol=1e-4)
    assert any("algebra determines" in line for line in found.trace)


def test_linear_layers_need_only_the_direction() -> None:
    rows = images(1, (3, 4, 4)).flatten(1)
    task = gl.Task(mlp(48, (12,), 10, seed=0).double(), gl.TabularSpace(48), num_classes=10)
    observation, _ = gl.capture(task, rows, labels(1), client=DPSGD(clip=0.01))
    found = gl.attacks.linear_layer()(observation)
    torch.testing.assert_close(found.inputs, rows, rtol=1e-9, atol=1e-9)


def test_under_noise_searches_run_instead_of_algebra() -> None:
    observation = observed(DPSGD(clip=0.1, noise_multiplier=0.1))
    found = gl.attacks.auto(max_seconds=3)(observation)
    assert found.status != "not_applicable"
    assert any(line.startswith("maximum_a_posteriori:") for line in found.trace)
    assert not any("algebra determines" in line for line in found.trace)
