"""Reading, peeling and inverting residual networks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradleak as gl
from gradleak.attacks.closed_form.layers import Affine
from gradleak.attacks.residual import residual_peeling
from gradleak.attacks.residual.masks import pooled_masks, settled
from gradleak.attacks.residual.network import Network, read_network
from gradleak.attacks.residual.peel import Front, peel
from gradleak.attacks.residual.search import residual_of
from gradleak.zoo.data import load
from gradleak.zoo.models import convnet, lenet, resnet
from gradleak.zoo.models.building import seeded
from tests.problems import images, labels


class Bottleneck(nn.Module):
    """A plain front, and one block of three convolutions with a projection as its shortcut, in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU())
        self.main = nn.Sequential(
            nn.Conv2d(24, 12, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
        )
        self.short = nn.Sequential(nn.Conv2d(24, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        x = functional.relu(self.main(x) + self.short(x), inplace=True)
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def bottleneck() -> nn.Module:
    """With ReLU in place, as most published models have it."""
    model = seeded(0, Bottleneck)
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
    return model


def with_statistics(model: nn.Module) -> nn.Module:
    """BatchNorm with values that are not their trivial defaults."""
    generator = torch.Generator().manual_seed(5)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.3, 0.3),
                (layer.running_var, 0.5, 1.5),
                (layer.weight.data, 0.6, 1.2),
                (layer.bias.data, -0.2, 0.3),
            ):
                assert tensor is not None
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model


def task_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> gl.Task:
    space = gl.ImageSpace((3, 16, 16), mean=(0.5, 0.4, 0.45), std=(0.2, 0.25, 0.3))
    return gl.Task(with_statistics(model).to(dtype), space, num_classes=10)


def resnet8(dtype: torch.dtype = torch.float32) -> gl.Task:
    return task_of(resnet(8), dtype)


def network_of(task: gl.Task) -> Network:
    network = read_network(task, task.state())
    assert isinstance(network, Network), network
    return network


def gradients(observation: gl.Observation) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in observation.update.in_gradient_direction().items()}


def photograph(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    inputs, targets = load("photographs").resized(16).sample(1, seed=seed)
    return inputs.to(dtype), targets


@pytest.mark.parametrize("model", [lambda: resnet(8), bottleneck])
def test_the_network_read_computes_what_the_model_does(model: Callable[[], nn.Module]) -> None:
    task = task_of(model(), torch.float64)
    network, variable = network_of(task), images(2)
    features = network.entering(variable, len(network.blocks)).mean(dim=(2, 3))
    state = task.state()
    outputs = task.space.forward(task.model.eval(), {**state.parameters, **state.constants}, variable)
    bias = state.parameters[network.head_bias]
    torch.testing.assert_close(features @ network.head_weight.T + bias, outputs)


def test_one_number_normalizes_every_channel() -> None:
    model = with_statistics(resnet(8)).double()
    task = gl.Task(model, gl.ImageSpace((3, 16, 16), mean=(0.4,), std=(0.2,)), num_classes=10)
    assert network_of(task).mean.shape == network_of(task).std.shape == (3, 1, 1)  # the search counts channels by it


def test_gradients_of_folded_convolutions_are_those_of_their_weight() -> None:
    """The derivative by weight and bias of convolution and BatchNorm as one, against autograd on that one."""
    task = task_of(bottleneck(), torch.float64)
    observation, _ = gl.capture(task, images(1), labels(1))
    network = network_of(task)
    block = network.blocks[1]
    weights = [one.layer.weight.clone().requires_grad_() for one in block.convolutions]
    biases = [one.layer.bias.clone().requires_grad_() for one in block.convolutions]
    maps = entering = network.entering(images(1), 1)
    for one, weight, bias in zip(block.convolutions, weights, biases, strict=True):
        maps = functional.conv2d(maps, weight, bias, one.layer.stride, one.layer.padding)
        maps = maps if one is block.convolutions[-1] else torch.relu(maps)
    assert block.shortcut is not None
    features = torch.relu(maps + block.shortcut(entering)).mean(dim=(2, 3))
    outputs = features @ network.head_weight.T + task.state().parameters["head.bias"].detach()
    functional.cross_entropy(outputs, labels(1)).backward()
    for one, weight, bias in zip(block.convolutions, weights, biases, strict=True):
        torch.testing.assert_close(one.weight_gradient(gradients(observation)), weight.grad)
        torch.testing.assert_close(one.bias_gradient(gradients(observation)), bias.grad)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lenet(10, activation=nn.ReLU), "mean over all positions"),
        (convnet(10, width=4), "mean over all positions"),
        (resnet(8, activation=nn.Sigmoid), "ends in sigmoid"),
    ],
)
def test_other_models_are_refused_with_a_reason(model: nn.Module, reason: str) -> None:
    task = gl.Task(model, gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, _ = gl.capture(task, images(1, (3, 32, 32)).float(), labels(1))
    result = residual_peeling()(observation)
    assert result.status == "not_applicable"
    assert reason in result.message


def layer_of(channels: int, side: int, kernel: int = 3, inputs: int = 6) -> Affine:
    weight = torch.randn((channels, inputs, kernel, kernel), generator=torch.Generator().manual_seed(1)).double()
    pad, shapes = kernel // 2, ((inputs, side, side), (channels, side, side))
    return Affine("w", weight, torch.zeros(channels).double(), None, (1, 1), (pad, pad), (1, 1), *shapes)


def pooled_gradient(layer: Affine, alike: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weight gradient, derivative of each channel, and the masks, by autograd on random maps with a dead channel.

    The masks of the first `alike` channels are all the same, which costs as many ranks less one.
    """
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand((1, *layer.input_shape), generator=generator, dtype=torch.float64)
    maps[0, 2] = 0
    masks = torch.rand(layer.output_shape, generator=generator) > 0.4
    masks[:alike] = True
    each = torch.randn(len(masks), generator=generator, dtype=torch.float64)
    weight = layer.weight.clone().requires_grad_()
    outputs = functional.conv2d(maps, weight, None, layer.stride, layer.padding)[0]
    (gradient,) = torch.autograd.grad((outputs * masks * each.view(-1, 1, 1)).sum(), weight)
    return gradient, each, masks


@pytest.mark.parametrize(("channels", "side", "alike"), [(16, 4, 0), (20, 3, 0), (36, 6, 2), (36, 6, 3)])
def test_masks_behind_an_average_pool_come_out_of_the_weight_gradient(channels: int, side: int, alike: int) -> None:
    layer = layer_of(channels, side, inputs=36 if alike else 6)
    gradient, each, masks = pooled_gradient(layer, alike)
    assert torch.linalg.matrix_rank(masks.flatten(1).double()) == min(side**2, channels - max(0, alike - 1))
    found = pooled_masks(layer, gradient.float().double(), each)
    assert isinstance(found, Tensor)
    assert torch.equal(found, masks)


def test_masks_that_are_not_determined_are_refused() -> None:
    few, point = layer_of(8, 3), layer_of(16, 4, kernel=1)
    assert "9 positions for 8 channels" in pooled_masks(few, *pooled_gradient(few)[:2])
    assert "does not see" in pooled_masks(point, *pooled_gradient(point)[:2])
    layer = layer_of(16, 4)
    gradient, each, _ = pooled_gradient(layer)
    noisy = gradient + 0.01 * gradient.std() * torch.randn(gradient.shape, generator=torch.Generator().manual_seed(3))
    assert "rounding or noise" in pooled_masks(layer, noisy, each)


def test_a_checksum_finds_the_unit_that_is_too_small_to_see() -> None:
    values = torch.tensor([[[0.7, 0.0], [2e-6, -1e-6]]], dtype=torch.float64)
    error = torch.full_like(values, 1e-5)
    cotangent = torch.tensor([[[1.0, 0.5], [-0.3, 0.2]]], dtype=torch.float64)
    found = settled(values, error, cotangent, torch.tensor([0.7], dtype=torch.float64), 1e-7)
    assert isinstance(found, Tensor)
    assert found.tolist() == [[[True, False], [True, False]]]
    wrong = settled(values, error, cotangent, torch.tensor([0.65], dtype=torch.float64), 1e-7)
    assert isinstance(wrong, str)
    assert "do not add up" in wrong


def test_every_solved_input_is_the_true_one() -> None:
    task = resnet8(torch.float64)
    inputs, targets = photograph(torch.float64)
    observation, _ = gl.capture(task, inputs, targets)
    network = network_of(task)
    front = peel(network, gradients(observation), 2e-16)
    assert isinstance(front, Front)
    assert len(front.account) >= 4, front.account
    entering = network.entering(task.space.encode(inputs), front.block)
    block = network.blocks[front.block]
    with torch.no_grad():
        if front.values is not None:
            expected = block.inner(entering, front.place + 1)[0]
            torch.testing.assert_close(front.values, expected, atol=1e-7, rtol=0)
        if front.outputs is not None:
            torch.testing.assert_close(front.outputs, block(entering)[0], atol=1e-7, rtol=0)
        residual = residual_of(network, front, gradients(observation), inputs)
        assert float(residual(task.space.encode(inputs).flatten()).norm()) < 1e-6
        assert float(residual(torch.full((768,), 0.5, dtype=torch.float64)).norm()) > 0.1


def test_photograph_behind_a_residual_network() -> None:
    observation, truth = gl.capture(resnet8(), *photograph(torch.float32))
    result = residual_peeling(max_evaluations=1000)(observation)
    scores = gl.score(result, truth)
    assert scores.median("psnr") > 30
    assert scores.to_dict()["target_correct"] == [True]
    assert "solved" in result.message
    assert result.evaluations <= 1000


def test_auto_takes_it() -> None:
    observation, truth = gl.capture(resnet8(), *photograph(torch.float32))
    result = gl.attacks.auto(max_seconds=None, max_evaluations=400)(observation)
    assert "by residual_peeling" in result.message
    assert gl.score(result, truth).median("psnr") > 20


def test_one_mean_for_all_channels_fits_color_images() -> None:
    task = gl.Task(resnet8().model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    inputs, targets = photograph(torch.float32)
    observation, _ = gl.capture(task, inputs, targets)
    assert residual_peeling(max_evaluations=20)(observation).status in {"budget", "converged"}


def test_restarts_and_time_are_limits() -> None:
    observation, _ = gl.capture(resnet8(), *photograph(torch.float32))
    few = residual_peeling(restarts=2, max_evaluations=40)(observation)
    assert few.evaluations <= 40
    assert torch.equal(few.variable, residual_peeling(restarts=2, max_evaluations=40)(observation).variable)
    assert residual_peeling(max_seconds=2)(observation).seconds < 6


def test_what_it_needs_is_said() -> None:
    task = resnet8()
    one = photograph(torch.float32)
    two = gl.capture(task, images(2).float(), labels(2))[0]
    assert "one example" in residual_peeling()(two).message
    noisy = gl.capture(task, *one, defenses=[gl.defenses.GaussianNoise(std=1e-2)])[0]
    assert residual_peeling()(noisy).status == "not_applicable"
