"""Peeling of a batch below known features, the pixels that are left, and the attack that does both."""

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form.layers import Affine, Chain, read_chain
from gradleak.attacks.closed_form.peeling import (
    Front,
    LayerCount,
    _Outputs,  # pyright: ignore[reportPrivateUsage]  # a rank can be checked by itself only here
    _rank,  # pyright: ignore[reportPrivateUsage]  # as above
    peel,
)
from gradleak.attacks.closed_form.pixels import PixelSearch, below_front, total_variation
from gradleak.attacks.closed_form.softmax_separation import SoftmaxSeparation, softmax_separation
from gradleak.zoo.data import load
from gradleak.zoo.models import mlp
from tests.problems import images, labels, small_lenet


def known_features(
    task: gl.Task, batch: Tensor, classes: Tensor
) -> tuple[Chain, dict[str, Tensor], Front, list[Tensor]]:
    """A chain, its update, the true front at its head, and the true input of every layer."""
    observation, _ = gl.capture(task, batch, classes)
    chain = read_chain(task, observation.state)
    assert isinstance(chain, Chain)
    values = [chain.normalize(batch.double())]
    for layer in chain.layers:
        values.append(layer(values[-1]))
    head = chain.layers[-1]
    assert isinstance(head, Affine)
    residuals = (torch.softmax(values[-1], 1) - task.target_probabilities(classes).double()) / len(batch)
    front = Front(len(chain.layers) - 1, values[-2], residuals @ head.weight, 1e-12)
    return chain, dict(observation.update.tensors), front, values


def test_inputs_of_the_last_convolution_follow_for_every_example() -> None:
    chain, update, front, values = known_features(small_lenet(), images(3), labels(3))
    peeled = peel(chain, update, front, precision=1e-15)
    assert peeled.front.index <= 4
    torch.testing.assert_close(peeled.front.values, values[peeled.front.index], rtol=0, atol=1e-6)
    assert peeled.counts[0] == LayerCount("conv3.weight", 3 * 192, 2 * 3 * 192)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("active", [0.0, 0.2, 1.0])
def test_the_rank_of_a_convolution_below_relu_is_that_of_its_equations(count: int, active: float) -> None:
    generator = torch.Generator().manual_seed(count)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(27, 4)).double()
    task = gl.Task(model, gl.ImageSpace((2, 6, 6)), 4)
    chain = read_chain(task, task.state())
    assert isinstance(chain, Chain)
    layer = chain.layers[0]
    assert isinstance(layer, Affine)
    known = (torch.rand(count, 3, 3, 3, generator=generator) < active).double()
    cotangents = torch.randn(count, 3, 3, 3, generator=generator).double() * known

    def equations(inputs: Tensor) -> Tensor:
        weight = layer.weight.clone().requires_grad_()
        outputs = nn.functional.conv2d(inputs, weight, stride=2, padding=1)
        (gradient,) = torch.autograd.grad(outputs, weight, cotangents, create_graph=True)
        return torch.cat([gradient.flatten(), outputs[known > 0]])

    inputs = torch.rand(count, 2, 6, 6, generator=generator).double()
    jacobian = torch.autograd.functional.jacobian(equations, inputs).flatten(1)
    expected = int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))
    assert _rank(layer, _Outputs(inputs[:, :1], cotangents, known, 0.0)) == expected


def test_stops_where_the_equations_run_out_and_counts_them() -> None:
    task = gl.Task(small_lenet().model, gl.ImageSpace((3, 16, 16)), 10)
    chain, update, front, values = known_features(task, images(8), labels(8))
    peeled = peel(chain, update, front, precision=1e-15)
    last = peeled.counts[-1]
    assert not last.determined
    assert str(last) in f"{last.layer}: {last.unknowns} unknowns, {last.equations} equations"
    assert f"{last.unknowns} unknown inputs" in peeled.obstacle
    torch.testing.assert_close(peeled.front.values, values[peeled.front.index], rtol=0, atol=1e-5)


def test_cotangents_at_the_front_are_those_of_the_loss() -> None:
    task = small_lenet()
    batch, classes = images(2), labels(2)
    chain, update, front, values = known_features(task, batch, classes)
    peeled = peel(chain, update, front, precision=1e-15)
    point = values[peeled.front.index].detach().clone().requires_grad_()
    outputs = point
    for layer in chain.layers[peeled.front.index :]:
        outputs = layer(outputs)
    (expected,) = torch.autograd.grad(task.loss(outputs, task.target_probabilities(classes)), point)
    torch.testing.assert_close(peeled.front.cotangents, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("pooled", [False, True])
def test_gradients_below_a_front_are_those_of_the_loss(pooled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh()]
    layers += [nn.AvgPool2d(2)] if pooled else []
    layers += [nn.Conv2d(4, 5, 3, bias=False), nn.Sigmoid(), nn.Flatten()]
    layers += [nn.Linear(20 if pooled else 180, 12), nn.Softplus(), nn.Linear(12, 10)]
    model = nn.Sequential(*layers)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    task = gl.Task(model.double(), gl.ImageSpace((3, 16, 16), mean=(0.4,), std=(0.3,)), 10)
    batch = images(3)
    chain, update, front, values = known_features(task, batch, labels(3))
    reached, gradients = below_front(chain, front, batch)
    torch.testing.assert_close(reached, values[-2])
    assert len(gradients) == len(update) - 2
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, update[name], rtol=1e-9, atol=1e-12)


def test_total_variation_of_a_known_image() -> None:
    ramp = torch.arange(8.0).double().view(1, 1, 1, 8).expand(1, 3, 8, 8) / 8
    # Brightness of a grey ramp moves by sqrt(3) / 8 a pixel, its colors by nothing; 7 of 8 columns, one of 3 channels.
    assert float(total_variation(ramp, 3.0)) == pytest.approx(2 * 3**0.5 / 8 * 7 / 8 / 3, rel=2e-2)
    red = torch.zeros(1, 3, 8, 8).double()
    red[:, 0, :, 4:] = 1.0
    assert float(total_variation(red, 3.0)) > 2 * float(total_variation(red, 1.0)) * 0.9


def test_a_batch_that_is_determined_comes_back_exactly() -> None:
    task = gl.Task(mlp(20, (30, 25), 10, activation=nn.Tanh).double(), gl.TabularSpace(20), 10)
    rows = torch.randn(5, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    observation, _ = gl.capture(task, rows, torch.tensor([1, 3, 4, 7, 8]))
    result = softmax_separation()(observation)
    assert result.status == "converged"
    assert result.targets.sort().values.tolist() == [1, 3, 4, 7, 8]
    assert float(torch.cdist(result.inputs, rows).min(dim=1).values.max()) < 1e-6
    assert "features certified" in result.message


def test_photographs_in_a_batch_are_recognizable() -> None:
    inputs, _ = load("photographs").sample(2, seed=3)
    model = small_lenet().model
    batch = nn.functional.avg_pool2d(inputs, 2)
    task = gl.Task(model.float(), gl.ImageSpace((3, 16, 16)), 10)
    observation, truth = gl.capture(task, batch, torch.tensor([2, 6]))
    attack = softmax_separation()
    result = attack(observation)
    scores = gl.score(result, truth).to_dict()
    assert all(isinstance(value, float) and value > 30 for value in scores["psnr"])
    assert all(scores["target_correct"])
    assert "conv3.weight: 384 unknowns" in result.message
    again = attack(observation)
    assert torch.equal(result.variable, again.variable)


def test_pixels_respect_their_budget() -> None:
    observation, _ = gl.capture(small_lenet(width=4), images(3), torch.tensor([0, 1, 2]))
    short = SoftmaxSeparation(PixelSearch(steps=10), max_evaluations=12)(observation)
    assert 2 <= short.evaluations <= 13
    assert "pixels: 2304 unknowns, " in short.message
    assert float(short.inputs.min()) >= 0
    assert float(short.inputs.max()) <= 1


def test_declines_what_it_cannot_do() -> None:
    def reason(observation: gl.Observation) -> str:
        result = softmax_separation()(observation)
        assert result.status == "not_applicable"
        return result.message

    assert "10 examples exceed the 9" in reason(gl.capture(small_lenet(), images(10), labels(10))[0])
    hidden = gl.ThreatModel(batch_size_known=False)
    assert "batch size" in reason(gl.capture(small_lenet(), images(2), labels(2), threat=hidden)[0])
    wide = gl.Task(mlp(40, (2, 12), 10, activation=nn.Tanh).double(), gl.TabularSpace(40), 10)
    rows = torch.rand(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert "rows have no prior" in reason(gl.capture(wide, rows, torch.tensor([1, 2, 3]))[0])
