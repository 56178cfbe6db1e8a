"""The FedSGD client against plain PyTorch training code."""

import copy
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradleak as gl
from gradleak.seeds import stage_generator
from tests.problems import Problem, TinyTransformer, gradient_problems, images, labels, normed_net, small_lenet


def plain_gradient(
    task: gl.Task, inputs: torch.Tensor, targets: torch.Tensor, *, train: bool
) -> dict[str, torch.Tensor]:
    """What a training script would compute: the module itself, `cross_entropy`, `backward`."""
    model = copy.deepcopy(task.model).train(train)
    space = task.space
    assert isinstance(space, gl.ImageSpace)
    mean, std = (torch.tensor(value, dtype=inputs.dtype).view(-1, 1, 1) for value in (space.mean, space.std))
    cross_entropy(model((inputs - mean) / std), targets).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize(
    "problem",
    [p for p in gradient_problems() if "dropout" not in p.name and p.name != "rows"],
    ids=lambda problem: problem.name,
)
def test_gradient_equals_plain_training_code(problem: Problem) -> None:
    observation, _ = gl.capture(problem.task, problem.inputs, problem.targets, client=problem.client)
    plain = plain_gradient(
        problem.task, problem.inputs, problem.targets, train=problem.client == gl.clients.Gradient(mode="train")
    )
    assert list(observation.update.tensors) == list(plain)
    for name, value in plain.items():
        torch.testing.assert_close(observation.update.tensors[name], value, rtol=1e-10, atol=1e-12)


def test_per_example_gradients_average_to_the_batch_gradient() -> None:
    task, batch, classes = small_lenet(), images(4), labels(4)
    whole = gl.capture(task, batch, classes)[0].update.tensors
    singles = [gl.capture(task, batch[i : i + 1], classes[i : i + 1])[0].update.tensors for i in range(4)]
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([s[name] for s in singles]).mean(dim=0), value, rtol=1e-10, atol=1e-12)


def test_training_mode_neither_updates_buffers_nor_flags() -> None:
    model = normed_net(nn.BatchNorm2d).eval()
    model[1].train()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    task = gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    gl.capture(task, images(3), labels(3), client=gl.clients.Gradient(mode="train"))
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name
    assert [module.training for module in model] == [False, True, False, False, False, False, False]


def test_training_and_evaluation_mode_differ() -> None:
    task = gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=10)
    one, other = (
        gl.capture(task, images(3), labels(3), client=gl.clients.Gradient(mode=mode))[0].update.tensors["0.weight"]
        for mode in ("eval", "train")
    )
    assert float((one - other).norm()) > 0.01 * float(one.norm())


def test_dropout_is_refused_until_its_masks_are_chosen() -> None:
    task = gl.Task(normed_net(nn.Identity, 0.3), gl.ImageSpace((3, 16, 16)), num_classes=10)
    with pytest.raises(gl.BadInput, match=r"dropout layers 3, got none; use dropout='off'"):
        gl.capture(task, images(1), labels(1))


def test_fixed_masks_depend_on_their_seed_only() -> None:
    task = gl.Task(normed_net(nn.Identity, 0.5), gl.ImageSpace((3, 16, 16)), num_classes=10)

    def update(dropout_seed: int, seed: int) -> torch.Tensor:
        client = gl.clients.Gradient(dropout="fixed_mask", dropout_seed=dropout_seed)
        return gl.capture(task, images(2), labels(2), client=client, seed=seed)[0].update.tensors["0.weight"]

    assert torch.equal(update(0, seed=0), update(0, seed=1))
    assert not torch.equal(update(0, seed=0), update(1, seed=0))


def test_dropout_inside_attention_has_no_fixed_mask() -> None:
    task = gl.Task(TinyTransformer(dropout=0.1).double(), gl.ImageSpace((3, 16, 16)), num_classes=10)
    with pytest.raises(gl.BadInput, match="draw masks internally"):
        gl.capture(task, images(1), labels(1), client=gl.clients.Gradient(dropout="fixed_mask"))


def test_frozen_parameters_send_nothing() -> None:
    model = normed_net(lambda channels: nn.GroupNorm(2, channels))
    model[0].weight.requires_grad_(False)
    task = gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    update = gl.capture(task, images(2), labels(2))[0].update.tensors
    assert list(update) == ["0.bias", "1.weight", "1.bias", "6.weight", "6.bias"]


class Tied(nn.Module):
    """One weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 10)
        self.second = nn.Linear(10, 10)
        self.second.weight = self.first.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(rows)))


def test_tied_parameters_appear_once_with_their_whole_gradient() -> None:
    model = Tied().double()
    rows = torch.rand((3, 10), generator=stage_generator(0, "rows"), dtype=torch.float64)
    task = gl.Task(model, gl.TabularSpace(10), num_classes=10)
    update = gl.capture(task, rows, labels(3))[0].update.tensors
    cross_entropy(model(rows), labels(3)).backward()
    assert list(update) == ["first.weight", "first.bias", "second.bias"]
    assert model.first.weight.grad is not None
    torch.testing.assert_close(update["first.weight"], model.first.weight.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attention_has_a_second_derivative(mode: Literal["eval", "train"]) -> None:
    task = gl.Task(TinyTransformer().double(), gl.ImageSpace((3, 16, 16)), num_classes=10)
    observation, _ = gl.capture(task, images(1), labels(1), client=gl.clients.Gradient(mode=mode))
    result = gl.attacks.dlg(outer_steps=1)(observation)
    assert result.evaluations > 1
    assert result.objective < result.history.objective[0]


def test_user_loss_is_used_by_both_sides() -> None:
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    task = gl.Task(small_lenet().model, gl.ImageSpace((3, 16, 16)), num_classes=10, loss=smoothed)
    update = gl.capture(task, images(2), labels(2))[0].update.tensors
    model = copy.deepcopy(task.model)
    smoothed(model(images(2)), labels(2)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(update[name], parameter.grad, rtol=1e-10, atol=1e-12)
