"""MixUp: its law, and that it acts on the batch."""

import pytest
import torch

import gradleak as gl
from gradleak.defenses.applying import changed_batch
from gradleak.defenses.mixup import beta
from gradleak.seeds import stage_generator
from tests.problems import images, labels, small_lenet

SPACE = gl.ImageSpace((3, 16, 16))


@pytest.mark.parametrize("each", [False, True])
def test_shares_are_those_of_two_examples_and_sum_to_one(each: bool) -> None:
    for seed in range(20):
        drawn = gl.defenses.MixUp(each=each).coefficients(5, stage_generator(seed, "mixup"))
        assert torch.allclose(drawn.sum(dim=1), torch.ones(5).double())
        assert int((drawn > 0).sum(dim=1).max()) <= 2
        if not each:
            assert torch.allclose(drawn.sum(dim=0), torch.ones(5).double())
            assert len(drawn[(drawn > 0) & (drawn < 1)].round(decimals=9).unique()) <= 2  # one share for the batch


def test_shares_follow_the_beta_distribution() -> None:
    drawn = beta(0.4, 20_000, stage_generator(0, "beta"))
    variance = 1 / (4 * (2 * 0.4 + 1))
    assert abs(float(drawn.mean()) - 0.5) < 4 * (variance / 20_000) ** 0.5
    assert abs(float(drawn.var()) - variance) < 0.03 * variance


def test_images_and_targets_are_mixed_alike() -> None:
    # Targets that are the images themselves must come out as the mixed images do.
    inputs = images(4)
    variable, targets = changed_batch([gl.defenses.MixUp()], inputs, inputs.flatten(1), SPACE, seed=3)
    assert torch.equal(variable.flatten(1), targets)
    assert not torch.allclose(variable, inputs)


def test_the_update_is_that_of_the_mixed_batch_and_a_single_example_is_not_mixed() -> None:
    task, mixup = small_lenet(), gl.defenses.MixUp()
    inputs, targets = images(3), labels(3)
    sent, truth = gl.capture(task, inputs, targets, defenses=[mixup], seed=2)
    mixed = changed_batch([mixup], inputs, task.target_probabilities(targets), task.space, seed=2)
    expected, _ = gl.capture(task, *mixed)
    again, _ = gl.capture(task, inputs, targets, defenses=[mixup], seed=2)
    for name, tensor in sent.update.tensors.items():
        assert torch.equal(tensor, expected.update.tensors[name])
        assert torch.equal(tensor, again.update.tensors[name])
    assert torch.equal(truth.inputs, inputs)
    other, _ = gl.capture(task, inputs, targets, defenses=[mixup], seed=3)
    assert not torch.allclose(other.update.tensors["linear.bias"], sent.update.tensors["linear.bias"])
    alone, _ = gl.capture(task, inputs[:1], targets[:1], defenses=[mixup])
    plain, _ = gl.capture(task, inputs[:1], targets[:1])
    assert torch.equal(alone.update.tensors["linear.bias"], plain.update.tensors["linear.bias"])


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(gl.BadInput, match="MixUp.alpha: expected a finite value above 0"):
        gl.capture(small_lenet(), images(1), labels(1), defenses=[gl.defenses.MixUp(alpha)])
