"""A wrong mode or state of the model is named."""

import torch
from torch import nn

import gradleak as gl
from gradleak.consistency import check_consistency
from gradleak.zoo.models import lenet
from gradleak.zoo.models.building import seeded
from tests.consistency.planting import MEAN, SPACE, STD, X, Y, dropping, normed, perhaps, proven, step, verdict


def test_modes_both_ways() -> None:
    in_train_mode = step(normed(), train=True)
    assert proven(verdict(in_train_mode, normed())) == ["mode"]
    assert verdict(in_train_mode, normed(), client=gl.clients.Gradient(mode="train")).consistent
    assert proven(verdict(step(normed()), normed(), client=gl.clients.Gradient(mode="train"))) == ["mode"]


def test_mode_and_summed_loss_together() -> None:
    assert sorted(proven(verdict(step(normed(), train=True, total=True), normed()))) == ["mode", "sum"]


def test_fresh_statistics_on_the_client() -> None:
    model = normed()
    layer = model.get_submodule("1")
    assert isinstance(layer, nn.BatchNorm2d)
    layer.reset_running_stats()
    found = verdict(step(model), normed())
    assert proven(found) == ["buffers"]
    assert "fresh" in found.causes[0].explanation


def test_statistics_that_moved_on_with_the_batch() -> None:
    model = normed().train()
    model((X - MEAN) / STD)
    found = verdict(step(model), normed())
    assert proven(found) == ["buffers"]
    assert "updated with this batch" in found.causes[0].explanation


def test_random_dropout_is_suspected_by_the_names_of_its_layers() -> None:
    model = seeded(5, dropping)
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(0)
        tensors = step(model, train=True)
    finally:
        torch.default_generator.set_state(before)
    found = verdict(tensors, model)
    assert perhaps(found)[0] == "dropout"
    assert "the layers 3 draw random dropout masks" in found.causes[0].explanation


def test_fixed_masks_both_ways() -> None:
    task = gl.Task(dropping(), SPACE, 10)
    fixed, off = gl.clients.Gradient(dropout="fixed_mask", dropout_seed=2), gl.clients.Gradient(dropout="off")
    masked, plain = (gl.capture(task, X, Y, client=client)[0].update for client in (fixed, off))
    assert check_consistency(masked, task, X, Y, client=fixed).consistent
    assert proven(check_consistency(masked, task, X, Y, client=off)) == ["dropout"]
    assert proven(check_consistency(plain, task, X, Y, client=fixed)) == ["dropout"]


def test_other_weights_are_not_explained_away() -> None:
    other = lenet(10, input_size=16, seed=2, initialization="default")
    found = verdict(step(other))
    assert perhaps(found)[-1] == "different_weights"
    assert "nothing that was tried fits" in found.causes[-1].explanation
