"""The classifier is found by what it computes, not by its place among the parameters."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks import labels as label_rules
from gradleak.attacks.head import Head, find_head
from gradleak.zoo.models import lenet
from tests.problems import images, labels, small_lenet

SPACE = gl.ImageSpace((3, 16, 16))


class ClassifierFirst(nn.Module):
    """Registers its classifier before the layers below it, and has an unused layer at the end."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.top = nn.Linear(32, 10, bias=bias)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.Sigmoid())
        self.unused = nn.Linear(7, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.top(self.body(inputs))


class Tied(nn.Module):
    """The classifier's weight is that of an earlier layer, under whose name the update holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.top = nn.Linear(768, 10), nn.Linear(768, 10)
        self.top.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.top(torch.sigmoid(inputs.flatten(1) + self.first(inputs.flatten(1)).mean()))


def head_of(model: nn.Module) -> Head | None:
    task = gl.Task(model, SPACE, 10)
    return find_head(task, task.state())


def test_place_name_and_bias_make_no_difference() -> None:
    assert head_of(ClassifierFirst()) == Head("top.weight", "top.bias")
    assert head_of(ClassifierFirst(bias=False)) == Head("top.weight", None)
    assert head_of(nn.Sequential(nn.Flatten(), nn.Linear(768, 10))) == Head("1.weight", "1.bias")


def test_what_follows_the_linear_layer_or_ties_it_leaves_none() -> None:
    assert head_of(nn.Sequential(lenet(10, input_size=16), nn.Softplus())) is None
    assert head_of(Tied()) is None


@pytest.mark.parametrize("trained", ["top", "body", "everything"])
def test_labels_with_frozen_parts(trained: str) -> None:
    model = ClassifierFirst()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in {name.split(".")[0], "everything"})
    targets = torch.tensor([3, 3, 8, 1])
    observation, _ = gl.capture(gl.Task(model, SPACE, 10), images(4).float(), targets)
    found = label_rules.recover_counts(observation, 4)
    if trained == "body":
        assert isinstance(found, label_rules.NoCounts)
        assert "trained weight" in found.reason
    else:
        assert isinstance(found, label_rules.LabelCounts)
        assert found.labels().tolist() == [1, 3, 3, 8]


def test_a_frozen_bias_is_no_bias_gradient() -> None:
    model = ClassifierFirst()
    dict(model.named_parameters())["top.bias"].requires_grad = False
    observation, _ = gl.capture(gl.Task(model, SPACE, 10), images(1).float(), torch.tensor([6]))
    assert find_head(observation.task, observation.state) == Head("top.weight", None)
    found = label_rules.recover_counts(observation, 1)
    assert isinstance(found, label_rules.LabelCounts)
    assert found.labels().tolist() == [6]


def test_images_that_are_a_transposed_view_change_nothing() -> None:
    """A photograph often arrives with its channels last and turned by a permutation, which is no contiguous tensor."""
    task, targets = small_lenet(), labels(2)
    turned = images(2).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    plain, _ = gl.capture(task, images(2), targets)
    observation, truth = gl.capture(task, turned, targets)
    for name, tensor in plain.update.tensors.items():
        torch.testing.assert_close(observation.update.tensors[name], tensor)

    def turned_start(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        count, channels, height, width = shape
        drawn = torch.rand((count, height, width, channels), generator=generator, dtype=torch.float64)
        return drawn.permute(0, 3, 1, 2)

    attack = replace(gl.attacks.dlg(max_evaluations=30), start=turned_start)
    result = attack(observation)
    assert result.objective < result.history.objective[0]
    assert len(gl.score(result, truth).psnr) == 2
