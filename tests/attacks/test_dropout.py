"""Dropout with masks that only the client knows."""

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks import dropout_inversion, staged
from gradleak.attacks.dropout_masks import MaskLayout
from gradleak.seeds import stage_generator
from gradleak.zoo.models import lenet
from gradleak.zoo.models.building import named_layers
from tests.problems import images, labels, small_lenet

CLIENT = gl.clients.Gradient(dropout="random")


def dropping_lenet() -> gl.Task:
    """A LeNet with dropout behind the second activation and before the classifier."""
    layers = list(lenet(10, input_size=16).named_children())
    with_dropout = [*layers[:4], ("dropout1", nn.Dropout(0.3)), *layers[4:7], ("dropout2", nn.Dropout(0.3)), layers[7]]
    return gl.Task(named_layers(*with_dropout), gl.ImageSpace((3, 16, 16)), num_classes=10)


def smooth(count: int, seed: int) -> torch.Tensor:
    """Blurred noise: images that can be told from their gradients in seconds."""
    drawn = torch.rand((count, 3, 4, 4), generator=stage_generator(seed, "images"))
    return nn.functional.interpolate(drawn, (16, 16), mode="bilinear")


def test_masks_before_a_linear_layer_are_read_exactly() -> None:
    task = dropping_lenet()
    observation, truth = gl.capture(task, smooth(1, 0), labels(1), client=CLIENT, seed=3)
    step, simulate = CLIENT.bind_draws(task, observation.state)
    masks = MaskLayout.of(observation, step, truth.inputs)
    read = masks.unpack(masks.high)["dropout2.mask"]
    drawn = step.draw(truth.inputs, stage_generator(3, "client"))
    assert torch.equal(read, drawn["dropout2.mask"])
    assert masks.known == read.numel()
    # With the drawn masks, the truth is at zero.
    sent = simulate(truth.inputs, task.target_probabilities(truth.targets), drawn)
    for name, tensor in observation.update.tensors.items():
        torch.testing.assert_close(sent[name], tensor)


def test_searching_masks_beats_ignoring_them() -> None:
    task = dropping_lenet()
    gains: list[float] = []
    for seed in range(3):
        observation, truth = gl.capture(task, smooth(1, seed), labels(1, seed=seed), client=CLIENT, seed=seed)
        found = dropout_inversion(restarts=1, max_evaluations=600)(observation)
        ignoring = staged(restarts=1, max_evaluations=600)(observation)
        assert found.evaluations <= 600
        assert bool(gl.score(found, truth).to_dict()["target_correct"][0])
        psnr = [float(gl.score(one, truth).to_dict()["psnr"][0] or 0) for one in (found, ignoring)]
        gains.append(psnr[0] - psnr[1])
    assert sum(gains) / len(gains) > 8, gains


def test_batches_and_the_penalty() -> None:
    task = dropping_lenet()
    known = gl.ThreatModel(labels_known=True)
    observation, truth = gl.capture(task, smooth(2, 1), labels(2), client=CLIENT, threat=known)
    result = dropout_inversion(restarts=1, max_evaluations=40)(observation)
    assert result.inputs.shape == truth.inputs.shape
    assert "0 of 768 mask entries read" in result.message
    step, _ = CLIENT.bind_draws(task, observation.state)
    masks = MaskLayout.of(observation, step, truth.inputs)
    ones = torch.ones_like(masks.kept)
    assert float(masks.penalty(ones)) < 1e-6
    assert float(masks.penalty(masks.kept)) == pytest.approx(0.3, abs=1e-5)
    drawn = masks.first(1, seed=0)
    assert set(drawn.unique().tolist()) == {0.0, masks.kept[0].item()}
    assert torch.equal(masks.rounded(drawn + 0.1 * (drawn == 0)), drawn)


def test_says_why_it_does_not_apply() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    assert dropout_inversion()(observation).status == "not_applicable"
    withheld, _ = gl.capture(
        dropping_lenet(), smooth(1, 0), labels(1), client=CLIENT, threat=gl.ThreatModel(batch_size_known=False)
    )
    assert "batch size is withheld" in dropout_inversion()(withheld).message
