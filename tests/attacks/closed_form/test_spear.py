import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.closed_form.relu_algebra import mixing_by_algebra
from gradleak.attacks.closed_form.relu_chain import find_relu_chain
from gradleak.attacks.closed_form.relu_sampling import mixing_by_sampling
from gradleak.attacks.closed_form.spear import spear
from gradleak.seeds import stage_generator
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet, mlp

SPACE = gl.ImageSpace((3, 16, 16))


def observed(
    hidden: tuple[int, ...], count: int, dtype: torch.dtype = torch.float64, known: bool = False
) -> tuple[gl.Observation, gl.Truth]:
    data = load("photographs")
    inputs, _ = data.sample(count, seed=3)
    inputs = torch.nn.functional.interpolate(inputs, size=(16, 16), mode="area").to(dtype)
    targets = torch.arange(count) % 7  # with repeats from the eighth on
    task = gl.Task(mlp(768, hidden, 10, seed=5).to(dtype), SPACE, num_classes=10)
    return gl.capture(task, inputs, targets, threat=gl.ThreatModel(labels_known=known))


@pytest.mark.parametrize(("hidden", "count"), [((200,), 1), ((200,), 8), ((300,), 12), ((400,), 16), ((150, 200), 8)])
def test_batches_with_repeated_labels_are_exact(hidden: tuple[int, ...], count: int) -> None:
    observation, truth = observed(hidden, count)
    result = spear()(observation)
    scores = gl.score(result, truth)
    assert result.status == "converged"
    assert float(scores.psnr.min()) > 150
    assert all(scores.target_correct)
    assert "agree at 100.00%" in result.message


def test_float32_updates_are_refined_to_their_rounding() -> None:
    observation, truth = observed((200, 200), 8, torch.float32)
    assert float(gl.score(spear()(observation), truth).psnr.min()) > 90


def test_given_targets_go_to_their_own_inputs() -> None:
    observation, _ = observed((200,), 8, known=True)
    result = spear()(observation)
    assert result.targets_given
    assert result.status == "converged"


def test_withheld_batch_size_is_the_rank() -> None:
    observation, truth = observed((200,), 5)
    without = gl.Observation(observation.task, observation.state, observation.update, client=observation.client)
    assert float(gl.score(spear()(without), truth).psnr.min()) > 150


def test_sampling_finds_what_algebra_finds() -> None:
    observation, truth = observed((200,), 5)
    scores = gl.score(spear(search="sampling")(observation, seed=1), truth)
    assert float(scores.psnr.min()) > 150


def synthetic(units: int, count: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random factors, outgoing weights and true directions of a layer with independent masks."""
    generator = stage_generator(0, "synthetic")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    outgoing = normal(units, width)
    derivatives = outgoing @ normal(width, count)
    active = torch.rand((units, count), generator=generator) < torch.rand((units, 1), generator=generator)
    active[: width + 8] = True
    active[torch.arange(units), torch.arange(units) % count] |= ~active.any(dim=1)  # no dead units
    directions = normal(count, count)
    left = (derivatives * active) @ torch.linalg.inv(directions)
    return left, outgoing, directions / directions.norm(dim=0)


def test_algebra_returns_the_directions_of_a_synthetic_layer() -> None:
    left, outgoing, directions = synthetic(120, 6, 4)
    found = mixing_by_algebra(left, outgoing, torch.arange(120), 1e-8, stage_generator(0, "draws"))
    assert isinstance(found, torch.Tensor)
    agreement = (found.T @ directions).abs().max(dim=0).values
    assert torch.allclose(agreement, torch.ones(6, dtype=torch.float64), atol=1e-9)


def test_algebra_refuses_with_too_few_mixed_units() -> None:
    left, outgoing, _ = synthetic(24, 6, 4)
    answer = mixing_by_algebra(left, outgoing, torch.arange(24), 1e-8, stage_generator(0, "draws"))
    assert isinstance(answer, str)
    assert "needed" in answer or "solutions" in answer


def test_sampling_reports_how_far_it_came() -> None:
    dense = torch.randn((50, 4), generator=stage_generator(0, "dense"), dtype=torch.float64)
    answer, drawn = mixing_by_sampling(
        dense,
        1e-8,
        stage_generator(0, "draws"),
        zero_fraction=0.2,
        max_samples=10_000,
        seconds=10.0,
        certify=lambda _: True,
    )
    assert answer == f"0 of 4 sparse directions after {drawn} draws"


def test_chain_follows_relus_only() -> None:
    observation, _ = observed((40, 30), 2)
    chain = find_relu_chain(observation)
    assert not isinstance(chain, str)
    assert chain.weights == ("linear1.weight", "linear2.weight", "linear.weight")
    assert chain.reaches_outputs
    tanh = gl.Task(mlp(768, (40,), 10, activation=nn.Tanh).double(), SPACE, num_classes=10)
    observation, _ = gl.capture(tanh, torch.rand((2, 3, 16, 16), dtype=torch.float64), torch.tensor([0, 1]))
    assert "receives the ReLU" in spear()(observation).message


def test_what_it_cannot_do_it_says() -> None:
    images = torch.rand((2, 3, 16, 16), generator=stage_generator(0, "images"), dtype=torch.float64)
    convolutional = gl.Task(lenet(10, input_size=16).double(), SPACE, num_classes=10)
    observation, _ = gl.capture(convolutional, images, torch.tensor([0, 1]))
    assert "receives the input" in spear()(observation).message
    narrow = gl.Task(mlp(768, (8,), 10).double(), SPACE, num_classes=10)
    observation, _ = gl.capture(narrow, images.repeat(5, 1, 1, 1) ** 2, torch.arange(10))
    result = spear()(observation)
    assert result.status == "not_applicable"
    assert "rank" in result.message
    twice = gl.Task(mlp(768, (100,), 10).double(), SPACE, num_classes=10)
    observation, _ = gl.capture(twice, images[:1].repeat(2, 1, 1, 1), torch.tensor([0, 1]))
    assert "rank 1" in spear()(observation).message
