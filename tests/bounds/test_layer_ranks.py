"""Ranks of the equations of each layer: against dense matrices, the recursion's own count, and what must follow."""

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form.layers import read_chain
from gradleak.attacks.closed_form.peeling import Front, peel
from gradleak.bounds.layer_ranks import LayerRank, layer_ranks
from gradleak.zoo.models.building import seeded


def conv_net(activation: type[nn.Module], stride: int = 1) -> nn.Sequential:
    return seeded(
        0,
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, stride=stride),
            activation(),
            nn.Conv2d(4, 6, 3, padding=1, stride=2),
            activation(),
            nn.Flatten(),
            nn.Linear(6 * (4 if stride == 1 else 2) ** 2, 5),
        ),
    ).double()


def task_of(model: nn.Module, side: int = 8) -> gl.Task:
    return gl.Task(model, gl.ImageSpace((3, side, side), mean=(0.4,), std=(0.3,)), num_classes=5)


def batch(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(count) % 5


def dense_rank(layer: nn.Module, inputs: Tensor, cotangents: Tensor, known: Tensor) -> int:
    """By the Jacobians of the known outputs and of the weight gradient with respect to the inputs."""

    def equations(x: Tensor) -> Tensor:
        outputs = layer(x)
        (gradient,) = torch.autograd.grad((outputs * cotangents).sum(), [next(layer.parameters())], create_graph=True)
        size = cotangents.square().sum().sqrt()
        return torch.cat([outputs[known], gradient.flatten() / size])

    jacobian = torch.autograd.functional.jacobian(equations, inputs).reshape(-1, inputs.numel())  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    values = torch.linalg.svdvals(jacobian)
    return int((values > 1e-6 * values[0]).sum())


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.ReLU])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_ranks_are_those_of_dense_matrices(activation: type[nn.Module], count: int, stride: int) -> None:
    model = conv_net(activation, stride)
    inputs, targets = batch(count)
    found = layer_ranks(task_of(model), inputs, targets)
    assert not isinstance(found, str)
    assert [one.layer for one in found] == ["5.weight", "2.weight", "0.weight"]
    values = [((inputs - 0.4) / 0.3).requires_grad_()]
    for module in model:
        values.append(module(values[-1]))
    loss = nn.functional.cross_entropy(values[-1], targets)
    cotangents = torch.autograd.grad(loss, values)
    for one, position in zip(found, (5, 2, 0), strict=True):
        outputs = values[position + 1].detach()
        known = outputs > 0 if activation is nn.ReLU and position < 5 else torch.ones_like(outputs).bool()
        expected = dense_rank(model[position], values[position].detach(), cotangents[position + 1], known)
        assert one.rank == expected
        assert one.unknowns == values[position].numel()
        assert one.known_outputs == int(known.sum())


@pytest.mark.parametrize(
    ("widths", "kernel", "ends"), [((2, 8), 3, (127,)), ((2, 4), 5, (128, 190)), ((4, 8), 3, (256, 192))]
)
def test_agrees_with_the_ranks_at_which_the_recursion_goes_on_or_ends(
    widths: tuple[int, int], kernel: int, ends: tuple[int, ...]
) -> None:
    model = seeded(
        0,
        lambda: nn.Sequential(
            nn.Conv2d(3, widths[0], kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(widths[0], widths[1], kernel, padding=kernel // 2, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * widths[1], 5),
        ),
    ).double()
    task, head = task_of(model), model[-1]
    weight = next(head.parameters()).detach()
    inputs, targets = batch(1)
    found = layer_ranks(task, inputs, targets)
    chain = read_chain(task, task.state())
    assert not isinstance(found, str)
    assert not isinstance(chain, str)
    observation, _ = gl.capture(task, inputs, targets)
    features = chain.normalize(inputs)
    for layer in chain.layers[:-1]:
        features = layer(features)
    residual = torch.softmax(head(features), dim=1).detach() - task.target_probabilities(targets)
    front = Front(len(chain.layers) - 1, features, residual @ weight, torch.tensor([1e-14]).double())
    peeled = peel(chain, observation.update.tensors, front, precision=1e-15)
    assert tuple(count.equations for count in peeled.counts) == ends
    assert tuple(one.rank for one in found[1 : 1 + len(ends)]) == ends


def test_a_linear_layer_shows_the_span_of_its_inputs() -> None:
    model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 5))).double()
    inputs, targets = batch(4)
    found = layer_ranks(task_of(model), inputs, targets)
    assert not isinstance(found, str)
    assert found[-1].input_span == 4
    # Four examples through 32 outputs: their gradient alone determines them.
    assert found[-1].free == 0


def test_what_only_pooled_means_show_is_said() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    ).double()
    found = layer_ranks(task_of(model), *batch(1))
    assert not isinstance(found, str)
    assert found[-1].rank is None
    assert "average pooling" in found[-1].describe()


def test_a_network_that_is_no_chain_says_why() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)).double()
    assert "max_pool2d" in str(layer_ranks(task_of(model), *batch(1)))


def test_bad_input_is_told_at_once() -> None:
    with pytest.raises(gl.BadInput) as caught:
        layer_ranks(task_of(conv_net(nn.Tanh)), torch.zeros(1, 3, 9, 9), torch.tensor([7]))
    assert len(caught.value.problems) == 2


def test_descriptions() -> None:
    assert LayerRank("a", 9, 4, 3, 6, 2).describe() == "a: rank 6 of 9, 3 directions stay free"
    assert LayerRank("a", 9, 4, 9, 9, 2).describe() == "a: rank 9 of 9, determined"
    assert LayerRank("a", 9, 4, 3, None, 2).describe() == "a: 9 unknowns, 7 equations, so a rank of at most 7"
