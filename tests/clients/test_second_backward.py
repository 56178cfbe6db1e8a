"""The sparing second backward pass against PyTorch's own, on every kind of layer that it replaces or must leave."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import gradleak as gl
from gradleak.attacks.objectives import normalized_squared_distance
from gradleak.attacks.relu.mask_derivative import MaskDerivative
from gradleak.clients import Simulate, second_backward
from gradleak.clients.second_backward import worthwhile
from gradleak.seeds import stage_generator
from gradleak.threat import Observation, simulator
from gradleak.zoo.models import lenet, mlp, resnet20
from tests.problems import Problem, images, labels, normed_net, problems

Body = Callable[[], nn.Module]


class Residual(nn.Module):
    """One convolution's output enters both BatchNorm and the sum; the BatchNorm after the sum follows none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.after = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        z = self.conv(pixels)
        return self.after(torch.tanh(z) + self.norm(z))


class InPlaceBetween(nn.Module):
    """What BatchNorm receives is no longer what the convolution gave, though it is the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> Tensor:
        z = self.conv(pixels)
        z += z.detach().mean()
        return self.norm(z)


class StatisticsOfTheBatch(nn.Module):
    """BatchNorm that holds running statistics and does not use them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> Tensor:
        mean, var = self.norm.running_mean, self.norm.running_var
        return functional.batch_norm(self.conv(pixels), mean, var, self.norm.weight, None, training=True, momentum=0)


class KernelFromInput(nn.Module):
    """The kernel depends on the candidate, so that its second derivative is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.conv2d(pixels, self.conv.weight * (1 + pixels.mean()), self.conv.bias)


class Rows(nn.Module):
    """One-dimensional convolution over the pixels of each channel, and one without a batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.lone = nn.Conv1d(3, 4, 5, stride=3), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        rows = functional.softplus(self.norm(self.conv(pixels.flatten(2))))
        return torch.stack([self.lone(row) for row in rows])


BODIES: dict[str, Body] = {
    "stride, groups, dilation": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=(2, 1), groups=3), nn.Softplus(), nn.Conv2d(6, 4, 3, dilation=2)
    ),
    "same padding": lambda: nn.Conv2d(3, 4, 3, padding="same"),
    "circular padding": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "no biases, ReLU in place": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, bias=False)
    ),
    "plain BatchNorm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ELU()),
    "BatchNorm of the batch": StatisticsOfTheBatch,
    "BatchNorm first": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh()),
    "residual": Residual,
    "in place between": InPlaceBetween,
    "kernel from input": KernelFromInput,
    "rows": Rows,
}


def net(body: Body) -> nn.Module:
    """A network around a body, with statistics that are not their trivial defaults."""
    model = nn.Sequential(body(), nn.Softplus(), nn.Flatten(), nn.LazyLinear(10)).double().eval()
    model(torch.zeros((1, 3, 16, 16), dtype=torch.float64))
    generator = stage_generator(0, "net")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.linspace(0.4 if "var" in name else -0.3, 1.2, buffer.numel()).view(buffer.shape))
    return model


def both_ways(monkeypatch: pytest.MonkeyPatch, observation: Observation) -> tuple[Simulate, Simulate]:
    """The simulated step with the sparing second backward pass, and with PyTorch's."""

    def step(fewest: float) -> Simulate:
        simulate = simulator(observation)

        def with_limit(variable: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
            monkeypatch.setattr(second_backward, "FEWEST_MULTIPLICATIONS", fewest)
            return simulate(variable, probabilities)

        return with_limit

    return step(-1), step(math.inf)


def derivatives(step: Simulate, observation: Observation, variable: Tensor, targets: Tensor) -> list[Tensor]:
    """The update, the distance's gradient by candidate and targets, and products with the Jacobian both ways."""
    point = variable.clone().requires_grad_()
    probabilities = observation.task.target_probabilities(targets).requires_grad_()
    simulated = step(point, probabilities)
    distance = normalized_squared_distance(simulated, observation.update.tensors)
    gradients = torch.autograd.grad(distance, (point, probabilities), retain_graph=True)
    flat = torch.cat([tensor.flatten() for tensor in simulated.values()])
    dual = torch.ones_like(flat, requires_grad=True)
    (pulled,) = torch.autograd.grad(flat, point, dual, create_graph=True)
    directions = torch.stack([torch.linspace(-1, shift, point.numel()).double().view_as(point) for shift in (1, 2)])
    (pushed,) = torch.autograd.grad(pulled, dual, directions, is_grads_batched=True, retain_graph=True)
    (again,) = torch.autograd.grad(pulled.square().sum(), point)
    return [flat.detach(), *gradients, pulled.detach(), pushed, again]


def assert_same(ours: list[Tensor], plain: list[Tensor]) -> None:
    for one, other in zip(ours, plain, strict=True):
        assert float((one - other).abs().max()) <= 1e-12 * float(other.abs().max())


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_layers_have_the_derivatives_of_torch(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    task = gl.Task(net(body), gl.ImageSpace((3, 16, 16), mean=(0.4,)), num_classes=10)
    observation, _ = gl.capture(task, images(2), labels(2))
    ours, plain = both_ways(monkeypatch, observation)
    assert_same(*(derivatives(step, observation, images(2, seed=1), labels(2)) for step in (ours, plain)))


@pytest.mark.parametrize(
    "problem",
    [p for p in problems() if p.name != "rows" and p.task.dtype == torch.float64]
    + [
        Problem(
            "resnet20",
            gl.Task(resnet20(10).double(), gl.ImageSpace((3, 16, 16)), num_classes=10),
            images(2),
            labels(2),
            gl.clients.Gradient(),
        )
    ],
    ids=lambda problem: problem.name,
)
def test_networks_have_the_derivatives_of_torch(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    observation, _ = gl.capture(problem.task, problem.inputs, problem.targets, client=problem.client)
    candidate = images(len(problem.inputs), seed=1)
    ours, plain = both_ways(monkeypatch, observation)
    assert_same(*(derivatives(step, observation, candidate, problem.targets) for step in (ours, plain)))


def test_frozen_kernels_have_the_derivatives_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = normed_net(nn.BatchNorm2d)
    model[0].weight.requires_grad_(False)
    model[1].weight.requires_grad_(False)
    observation, _ = gl.capture(gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10), images(2), labels(2))
    ours, plain = both_ways(monkeypatch, observation)
    assert_same(*(derivatives(step, observation, images(2, seed=1), labels(2)) for step in (ours, plain)))


def test_masks_keep_their_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    task = gl.Task(
        net(
            lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3))
        ),
        gl.ImageSpace((3, 16, 16)),
        num_classes=10,
    )
    observation, _ = gl.capture(task, images(2), labels(2))
    mask = MaskDerivative(beta=2.0, pool_beta=5.0)
    steps = both_ways(monkeypatch, observation)
    ours, plain = (derivatives(mask.wrap(step), observation, images(2, seed=1), labels(2)) for step in steps)
    assert_same(ours, plain)
    without = derivatives(steps[0], observation, images(2, seed=1), labels(2))
    assert float((ours[1] - without[1]).norm()) > 1e-3 * float(without[1].norm())


def test_without_batchnorm_every_bit_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    task = gl.Task(lenet(10), gl.ImageSpace((3, 32, 32)), num_classes=10)
    batch = images(4, (3, 32, 32)).float()
    observation, _ = gl.capture(task, batch, labels(4))
    ours, plain = (
        derivatives(step, observation, 1 - batch, labels(4))[:3] for step in both_ways(monkeypatch, observation)
    )
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


class Convolutions(TorchDispatchMode):
    """Counts the convolution kernels that run, by what they compute."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen["forward"] += 1
        elif func is torch.ops.aten.convolution_backward.default:
            self.seen["by input"] += args[-1][0]
            self.seen["by kernel"] += args[-1][1]
        return func(*args, **(kwargs or {}))


def test_an_objective_gradient_is_seven_convolutions_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward 1, first backward 2, second backward 3 + 1; in the first layer nothing lies before in the first pass."""
    task = gl.Task(
        net(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ELU(), nn.Conv2d(4, 4, 3))),
        gl.ImageSpace((3, 16, 16)),
        num_classes=10,
    )
    observation, _ = gl.capture(task, images(2), labels(2))
    step, _ = both_ways(monkeypatch, observation)
    candidate = images(2, seed=1).requires_grad_()
    probabilities = task.target_probabilities(labels(2))
    step(candidate, probabilities)  # the first call counts the network's size
    with Convolutions() as count:
        distance = normalized_squared_distance(step(candidate, probabilities), observation.update.tensors)
        torch.autograd.grad(distance, candidate)
    # Layer 1: no kernel's cotangent p, since no gradient by its input exists in the first pass.
    assert count.seen == {"forward": (1 + 1) + (1 + 2), "by input": 2 + 3, "by kernel": 1 + 1}


@pytest.mark.parametrize(("count", "large"), [(1, False), (8, False), (64, True)])
def test_only_large_convolutions_are_replaced(count: int, large: bool) -> None:
    model, batch = lenet(10), torch.zeros((count, 3, 32, 32))
    # 12 x 16 x 16 outputs of 3 x 5 x 5 products, then twice 12 x 8 x 8 of 12 x 5 x 5: 230,400 each.
    assert (count * 230_400 >= second_backward.FEWEST_MULTIPLICATIONS) is large
    assert worthwhile(lambda: model(batch)) is large


def test_a_network_without_convolutions_is_left_to_torch() -> None:
    assert not worthwhile(lambda: mlp(3072, (8,), 10)(torch.zeros((64, 3072))))
