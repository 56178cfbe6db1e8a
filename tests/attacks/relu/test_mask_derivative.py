"""The mask derivative: exact values and first gradients, and the stated derivative of the masks after that."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradleak as gl
from gradleak.attacks.objectives import cosine_distance
from gradleak.attacks.relu import MaskDerivative
from gradleak.seeds import stage_generator
from gradleak.threat import simulator
from gradleak.zoo.models import convnet, resnet20
from tests.problems import images, labels, small_lenet


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=stage_generator(seed, "values"), dtype=torch.float64)


class Functional(nn.Module):
    """Every spelling of ReLU that is replaced, and max-pooling as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.in_place = nn.ReLU(inplace=True)
        self.head = nn.Linear(24, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        a = torch.relu(self.conv(pixels)) + functional.relu(1 - self.conv(pixels))
        b = (a - 1).clamp(min=0) + torch.clamp_min(0.5 - a, 0) + functional.leaky_relu(a - 0.7, 0.2)
        c = self.in_place(functional.relu(b - 0.1, inplace=True) - 0.2).relu()
        return self.head(functional.max_pool2d(functional.max_pool2d(c, 4), (2, 2), stride=2).flatten(1))


def tasks() -> list[gl.Task]:
    space = gl.ImageSpace((3, 16, 16), mean=(0.4,), std=(0.3,))
    models = [convnet(input_size=16, width=4), resnet20().eval(), Functional()]
    return [small_lenet(activation=nn.ReLU, initialization="default")] + [
        gl.Task(model.double(), space, num_classes=10) for model in models
    ]


def value_and_gradient(
    step: Callable[[Tensor, Tensor], dict[str, Tensor]], observation: gl.Observation, candidate: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = candidate.clone().requires_grad_()
    value = cosine_distance(step(leaf, observation.task.target_probabilities(labels(2))), observation.update.tensors)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("task", tasks(), ids=["lenet", "convnet", "resnet", "functional"])
def test_objective_is_bit_equal_and_only_its_gradient_differs(task: gl.Task) -> None:
    observation, _ = gl.capture(task, images(2), labels(2))
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    plain = simulator(observation)
    wrapped = MaskDerivative(beta=3.0, pool_beta=10.0).wrap(plain)
    candidate = images(2, seed=1)
    value, gradient = value_and_gradient(plain, observation, candidate)
    same, other = value_and_gradient(wrapped, observation, candidate)
    assert torch.equal(value, same)
    assert float((gradient - other).norm() / gradient.norm()) > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    again, exact = value_and_gradient(plain, observation, candidate)
    assert torch.equal(again, value)
    assert torch.equal(exact, gradient)


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("relative", [False, True])
def test_second_backward_of_relu_is_the_formula(slope: float, relative: bool) -> None:
    z, cotangent, direction = normal(50), normal(50, seed=1), normal(50, seed=2)
    z.requires_grad_()
    cotangent.requires_grad_()
    derivative = MaskDerivative(beta=2.0, relative=relative)
    values = derivative.relu(z, slope)
    assert torch.equal(values, functional.leaky_relu(z, slope))
    (first,) = torch.autograd.grad(values, z, cotangent, create_graph=True)
    mask = (z > 0) + slope * (z <= 0).double()
    assert torch.equal(first, mask * cotangent)
    by_z, by_cotangent = torch.autograd.grad(first, (z, cotangent), direction)
    beta = 2.0 / float(z.detach().std()) if relative else 2.0
    s = torch.sigmoid(beta * z)
    torch.testing.assert_close(by_z, (1 - slope) * direction * cotangent * beta * s * (1 - s))
    torch.testing.assert_close(by_cotangent, mask * direction)


def test_second_backward_of_pooling_is_that_of_a_softmax_choice() -> None:
    z, cotangent, direction = normal(1, 2, 4, 5), normal(1, 2, 2, 2, seed=1), normal(1, 2, 4, 5, seed=2)
    z.requires_grad_()
    values = MaskDerivative(beta=1.0, pool_beta=3.0).max_pool2d(z, (2, 2))
    assert torch.equal(values, functional.max_pool2d(z, 2))
    (first,) = torch.autograd.grad(values, z, cotangent, create_graph=True)
    (plain,) = torch.autograd.grad(functional.max_pool2d(z, 2), z, cotangent)
    assert torch.equal(first, plain)
    (moving,) = torch.autograd.grad(first, z, direction)

    def smooth(entries: Tensor) -> Tensor:
        total = entries.new_zeros(())
        for row in range(2):
            for column in range(2):
                window = (..., slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
                shares = torch.softmax(3.0 * entries[window].flatten(-2), dim=-1)
                total = total + ((shares * direction[window].flatten(-2)).sum(-1) * cotangent[..., row, column]).sum()
        return total

    torch.testing.assert_close(moving, torch.func.grad(smooth)(z.detach()))


def test_ties_go_to_the_first_entry_as_in_torch() -> None:
    z = torch.zeros((1, 1, 4, 4), dtype=torch.float64, requires_grad=True)
    ours = MaskDerivative(beta=1.0, pool_beta=3.0).max_pool2d(z, (2, 2)).sum()
    assert torch.equal(torch.autograd.grad(ours, z)[0], torch.autograd.grad(functional.max_pool2d(z, 2).sum(), z)[0])


def test_vmap_over_candidates_is_a_loop() -> None:
    task = tasks()[1]
    observation, _ = gl.capture(task, images(1), labels(1))
    step = MaskDerivative(beta=2.0, pool_beta=5.0).wrap(simulator(observation))
    targets = task.target_probabilities(labels(1))

    def energy(candidate: Tensor) -> Tensor:
        return cosine_distance(step(candidate, targets), observation.update.tensors)

    stacked = torch.stack([images(1, seed=seed) for seed in (1, 2, 3)]).requires_grad_()
    values = torch.vmap(energy)(stacked)
    (together,) = torch.autograd.grad(values.sum(), stacked)
    for index in range(3):
        single = stacked[index].detach().requires_grad_()
        value = energy(single)
        torch.testing.assert_close(value, values[index])
        torch.testing.assert_close(torch.autograd.grad(value, single)[0], together[index])


@dataclass
class Pools:
    """Pooling that windows side by side do not describe."""

    layers: list[nn.MaxPool2d] = field(
        default_factory=lambda: [
            nn.MaxPool2d(3, stride=2),
            nn.MaxPool2d(2, padding=1),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.MaxPool2d(2, dilation=2),
        ]
    )


@pytest.mark.parametrize("layer", Pools().layers, ids=str)
def test_other_pooling_is_left_to_torch(layer: nn.MaxPool2d) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.LazyLinear(10))
    net(torch.zeros(1, 3, 16, 16))
    task = gl.Task(net.double(), gl.ImageSpace((3, 16, 16)), num_classes=10)
    observation, _ = gl.capture(task, images(2), labels(2))
    plain = simulator(observation)
    wrapped = MaskDerivative(beta=3.0, pool_beta=10.0).wrap(plain)
    for one, other in zip(
        value_and_gradient(plain, observation, images(2, seed=1)),
        value_and_gradient(wrapped, observation, images(2, seed=1)),
        strict=True,
    ):
        assert torch.equal(one, other)
