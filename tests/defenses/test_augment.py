"""Augmentation policies: how they are read, what they may do, and what is drawn."""

import pytest
import torch

import gradleak as gl
from gradleak.defenses.augment import POLICIES, transformed
from gradleak.seeds import stage_generator
from tests.problems import images, labels, small_lenet

SPACE = gl.ImageSpace((3, 16, 16))


def test_policies_are_read_and_there_are_fifty_operations() -> None:
    assert len(POLICIES) == 50
    assert POLICIES[3] == ("translateX", 9)
    assert POLICIES[49] == ("autocontrast", 1)
    assert gl.defenses.Augment("3-1-7+43-18-18").policies == ((3, 1, 7), (43, 18, 18))


def test_possible_steps_cover_every_choice_once() -> None:
    assert len(gl.defenses.Augment("3-1-7+43-18-18").possible_steps()) == 16
    assert gl.defenses.Augment("0-2").possible_steps() == ((("invert", 0.0), ("rotate", pytest.approx(20 / 3))),)
    assert len(gl.defenses.Augment("39").possible_steps()) == 1  # a color change by nothing has no direction


def test_every_image_gets_one_of_the_possible_changes_and_choices_vary() -> None:
    defense, inputs = gl.defenses.Augment("3-1-7+43-18-18"), images(1).expand(12, -1, -1, -1)
    found, targets = defense.change_batch(inputs, torch.eye(12), SPACE, stage_generator(0, "defense"))
    possible = torch.stack([transformed(steps, inputs[:1], SPACE)[0] for steps in defense.possible_steps()])
    which = [int(((possible - image).abs().flatten(1).amax(dim=1) < 1e-12).nonzero()[0, 0]) for image in found]
    assert len(set(which)) > 4
    assert torch.equal(targets, torch.eye(12))
    again, _ = defense.change_batch(inputs, torch.eye(12), SPACE, stage_generator(0, "defense"))
    assert torch.equal(found, again)


def test_bounds_stand_for_black_and_white() -> None:
    wide = gl.ImageSpace((3, 16, 16), bounds=(0.0, 255.0))
    inputs = images(1)
    steps = gl.defenses.Augment("0-3-1").possible_steps()[0]
    assert torch.allclose(transformed(steps, 255 * inputs, wide), 255 * transformed(steps, inputs, SPACE))


def test_crops_keep_the_shape_and_vary() -> None:
    defense = gl.defenses.Augment("39", crop=True)
    found, _ = defense.change_batch(images(1).expand(6, -1, -1, -1), torch.eye(6), SPACE, stage_generator(0, "x"))
    assert found.shape == (6, 3, 16, 16)
    assert len({round(float(image.sum()), 6) for image in found}) > 3


@pytest.mark.parametrize("policy", ["", "x", "3-", "-3", "3+"])
def test_what_is_no_policy_is_refused(policy: str) -> None:
    with pytest.raises(gl.BadInput, match="expected indices such as '3-1-7"):
        gl.capture(small_lenet(), images(1), labels(1), defenses=[gl.defenses.Augment(policy)])


def test_unknown_operations_are_refused_and_rows_are_left_alone() -> None:
    assert "expected indices 0 to 49, got 50" in gl.defenses.Augment("3-50").problems()[0]
    rows = torch.rand(2, 4)
    same, _ = gl.defenses.Augment().change_batch(rows, torch.eye(2), gl.TabularSpace(4), stage_generator(0, "x"))
    assert torch.equal(same, rows)
