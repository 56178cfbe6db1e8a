"""Residual networks with BatchNorm in training mode, peeled for one example."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradleak as gl
from gradleak.attacks.residual import residual_peeling
from gradleak.attacks.residual.contrast import stretched, unit_contrast
from gradleak.attacks.residual.coupled import Coupled, KnownShortcut
from gradleak.attacks.residual.coupled_solver import crude_start, solve
from gradleak.attacks.residual.network import Network, read_network
from gradleak.attacks.residual.pooled import pooled_top
from gradleak.attacks.residual.search import residual_of
from gradleak.attacks.residual.training_peel import peel_in_training
from gradleak.zoo.data import load
from gradleak.zoo.models import resnet

CLIENT = gl.clients.Gradient(mode="train", send_buffers=True)


def small(dtype: torch.dtype = torch.float64) -> tuple[gl.Task, Tensor, Tensor]:
    """ResNet-14 on an image of 16x16, whose last maps have 16 positions."""
    model = resnet(14, 10, seed=1)
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight.data, layer.bias.data):
                value += 0.2 * torch.randn(value.shape, generator=generator)
    inputs, _ = load("photographs").resized(16).sample(1, seed=1)
    space = gl.ImageSpace((3, 16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return gl.Task(model.to(dtype), space, num_classes=10), inputs.to(dtype), torch.tensor([3])


def training(task: gl.Task) -> Network:
    network = read_network(task, task.state())
    assert isinstance(network, Network)
    network = network.in_training()
    assert isinstance(network, Network)
    return network


def inside(task: gl.Task, inputs: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """For each convolution: its input, BatchNorm's output and the cotangent there, by the module itself."""
    model = copy.deepcopy(task.model).double().train()
    seen: dict[str, Tensor] = {}

    def record(name: str) -> None:
        def hook(_layer: nn.Module, received: tuple[Tensor, ...], made: Tensor) -> None:
            made.retain_grad()
            seen[name], seen[f"{name}/in"] = made, received[0]

        model.get_submodule(name).register_forward_hook(hook)

    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d | nn.Conv2d)]
    for name in names:
        record(name)
    cross_entropy(task.space.forward(model, {}, inputs.double()), targets).backward()
    found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name in names:
        norm = seen[name.replace("conv", "bn")]
        assert norm.grad is not None
        if "conv" in name:
            found[f"{name}.weight"] = seen[f"{name}/in"][0].detach(), norm[0].detach(), norm.grad[0]
    return found


def test_the_top_is_found_without_a_start() -> None:
    task, inputs, targets = small()
    observation, _ = gl.capture(task, inputs, targets, client=CLIENT)
    top = training(task).blocks[-1].convolutions[-1]
    update = dict(observation.update.tensors)
    network = training(task)
    each = update[network.head_bias] @ network.head_weight / 16
    found = pooled_top(top, update, each)
    assert not isinstance(found, str), found
    masks, maps = found
    received, _, cotangent = inside(task, inputs, targets)[top.layer.name]
    assert torch.equal(masks, cotangent != 0)
    maps = maps * (received * maps).sum() / maps.square().sum()
    assert float((maps - received).norm() / received.norm()) < 1e-4
    noisy = {name: value + 1e-3 * value.std() * torch.randn_like(value) for name, value in update.items()}
    assert isinstance(pooled_top(top, noisy, each), str)


@pytest.mark.parametrize("name", ["layer3.1.conv1.weight", "layer2.0.conv2.weight", "layer3.0.conv1.weight"])
def test_a_coupled_layer_gives_its_input(name: str) -> None:
    task, inputs, targets = small()
    observation, _ = gl.capture(task, inputs, targets, client=CLIENT)
    network, update = training(task), dict(observation.update.tensors)
    where = inside(task, inputs, targets)
    received, made, cotangent = where[name]
    block = next(one for one in network.blocks for layer in one.convolutions if layer.layer.name == name)
    values = known = None
    if name.endswith("conv1.weight"):
        values = torch.relu(made)
        assert block.shortcut is not None
        shortcut = block.shortcut(received[None])[0]
        active = shortcut + where[name.replace("conv1", "conv2")][1] > 0
        known = KnownShortcut.of(block.shortcut, shortcut, active, tuple(received.shape))
    convolution = next(layer for layer in block.convolutions if layer.layer.name == name)
    equations = Coupled.of(convolution, cotangent, update, values, known)
    assert isinstance(equations, Coupled)
    assert convolution.norm is not None
    # The equations hold at the truth.
    below = equations.below(received)
    torch.testing.assert_close(below @ equations.columns(received).T, equations.observed, rtol=1e-7, atol=1e-12)
    solved = solve(equations, crude_start(equations, convolution.norm.deviation), 1e-16)
    maps = solved.maps * (received * solved.maps).sum() / solved.maps.square().sum()
    assert float((maps - received).norm() / received.norm()) < 1e-4
    if known is not None:
        assert float((solved.maps - received).norm() / received.norm()) < 1e-4


def test_peeling_reaches_below_the_last_stage_and_the_truth_fits_below() -> None:
    task, inputs, targets = small()
    observation, _ = gl.capture(task, inputs, targets, client=CLIENT)
    network, update = training(task), dict(observation.update.tensors)
    front = peel_in_training(network, update, 1e-12)
    assert not isinstance(front, str), front
    assert len(front.account) >= 3, front.account
    name = network.blocks[front.block].convolutions[front.place].layer.name
    cotangent = inside(task, inputs, targets)[name][2]
    assert float((front.cotangent - cotangent).norm() / cotangent.norm()) < 1e-5
    residual = residual_of(network, front, update, inputs)
    assert float(residual(inputs.flatten()).norm()) < 1e-4
    image = unit_contrast(network, (1, 3, 16, 16))
    found = image(inputs.flatten()).view(1, 3, 16, 16)
    assert float(network.normalized(found).square().mean()) == pytest.approx(1)
    # The gradient does not know the contrast, but for epsilon.
    assert float(residual(network.scaled(inputs, 1.5).flatten()).norm()) < 1e-2
    assert float(residual(torch.full_like(inputs, 0.4).flatten()).norm()) > 0.1


def test_the_attack_finds_the_image_with_and_without_statistics() -> None:
    task, inputs, targets = small(torch.float32)
    for sends, words in ((True, "inferred from sent buffers, exact"), (False, "pixels reach their bounds")):
        observation, truth = gl.capture(task, inputs, targets, client=replace(CLIENT, send_buffers=sends))
        result = residual_peeling(max_evaluations=800)(observation)
        assert words in result.message
        scores = gl.score(result, truth).to_dict()
        assert scores["target_correct"] == [True]
        correlation = scores["correlation"][0]
        assert correlation is not None
        assert correlation > 0.9, (correlation, result.message)


def test_contrast_without_statistics_reaches_the_bounds() -> None:
    task, inputs, targets = small()
    observation, _ = gl.capture(task, inputs, targets)
    network = training(task)
    full = stretched(observation, network, inputs)
    assert float(full.max() - full.min()) >= float(inputs.max() - inputs.min()) - 1e-9
    torch.testing.assert_close(stretched(observation, network, network.scaled(full, 0.3)), full)


def test_what_is_not_covered_in_training_mode() -> None:
    task, inputs, targets = small()
    model = copy.deepcopy(task.model)
    model.bn1 = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    bare = gl.Task(model, task.space, num_classes=10)
    observation, _ = gl.capture(bare, inputs, targets, client=CLIENT)
    assert "has no BatchNorm behind it" in residual_peeling(max_seconds=1)(observation).message
