"""Attackers who know a defense of the batch, end to end, and those who do not."""

from dataclasses import replace

import pytest
import torch

import gradleak as gl
from gradleak.attacks.batch_defenses.mixed_head import separate_mixed
from gradleak.attacks.batch_defenses.restoration import batch_restoration
from gradleak.attacks.closed_form.softmax_separation import head_problem
from gradleak.defenses.applying import changed_batch
from gradleak.zoo.data import photographs
from gradleak.zoo.models import lenet
from tests.problems import images, labels, small_lenet


def photograph_batch(classes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    data = photographs(size=16)
    return data.inputs[:: 200 // len(classes)][: len(classes)], torch.tensor(classes)


def task_in_float32() -> gl.Task:
    return gl.Task(lenet(10, input_size=16, seed=0), gl.ImageSpace((3, 16, 16)), num_classes=10)


@pytest.mark.parametrize(("classes", "seed"), [([3, 7], 1), ([1, 2, 5, 8], 9)])
def test_the_head_tells_share_and_partners(classes: list[int], seed: int) -> None:
    inputs, targets = photograph_batch(classes)
    mixup = gl.defenses.MixUp()
    observation, _ = gl.capture(task_in_float32(), inputs, targets, defenses=[mixup], seed=seed)
    prepared = head_problem(replace(observation, defenses=()))
    assert not isinstance(prepared, str), prepared
    found = separate_mixed(prepared.problem, prepared.labels, prepared.classes)
    soft = changed_batch(
        [mixup], inputs, torch.nn.functional.one_hot(targets, 10).double(), observation.task.space, seed
    )[1]
    assert float(soft.max()) < 0.999  # something was mixed
    ours = found.targets(prepared.classes)
    for row in soft:
        assert float((ours - row).abs().amax(dim=1).min()) < 2e-3


def test_mixup_is_undone_by_who_knows_it() -> None:
    inputs, targets = photograph_batch([3, 7])
    observation, truth = gl.capture(task_in_float32(), inputs, targets, defenses=[gl.defenses.MixUp()], seed=1)
    known = gl.score(gl.attacks.auto(max_seconds=6)(observation), truth)
    blind = replace(observation, defenses=None, threat=gl.ThreatModel(defense_known=False))
    ignorant = gl.score(gl.attacks.auto(max_seconds=2)(blind), truth)
    assert known.median("psnr") > ignorant.median("psnr") + 5
    assert known.target_correct == (True, True)


def test_signs_and_augmentations_of_one_image_are_undone() -> None:
    inputs, targets = photograph_batch([3])
    for defense in (gl.defenses.InstaHide(), gl.defenses.Augment("0-38")):
        observation, truth = gl.capture(task_in_float32(), 0.2 + 0.5 * inputs, targets, defenses=[defense], seed=0)
        found = gl.attacks.auto(max_seconds=5)(observation)
        assert gl.score(found, truth).median("psnr") > 25, defense
        assert found.targets.tolist() == [3]


def test_attacks_that_expect_single_labels_say_so() -> None:
    observation, _ = gl.capture(small_lenet(), images(2), labels(2), defenses=[gl.defenses.MixUp()])
    found = gl.attacks.softmax_separation()(observation)
    assert found.status == "not_applicable"
    assert "mixes targets" in found.message
    given, _ = gl.capture(
        small_lenet(),
        images(2),
        labels(2),
        defenses=[gl.defenses.MixUp()],
        threat=gl.ThreatModel(labels_known=True),
    )
    found = gl.attacks.staged(max_evaluations=3)(given)
    rows = found.target_probabilities
    assert bool((rows.max(dim=1).values < 0.99).all())  # given labels are not taken for those of mixtures


def test_it_does_not_apply_without_a_known_change_and_says_why() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    assert "no known defense changes the batch" in batch_restoration()(observation).message
    withheld, _ = gl.capture(
        small_lenet(),
        images(1),
        labels(1),
        defenses=[gl.defenses.MixUp()],
        threat=gl.ThreatModel(batch_size_known=False),
    )
    assert "batch size is withheld" in batch_restoration()(withheld).message


def test_defenses_that_are_not_solved_for_still_give_an_image() -> None:
    for defense in (gl.defenses.MixUp(each=True), gl.defenses.InstaHide(k=2)):
        observation, _ = gl.capture(small_lenet(), images(2), labels(2), defenses=[defense])
        found = gl.attacks.auto(max_evaluations=20)(observation)
        assert found.status != "not_applicable"
        assert bool(torch.isfinite(found.inputs).all())
