"""Single examples through a last layer without bias: the setting of R-GAP."""

import math

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form.biasless_head import examples_without_bias
from gradleak.zoo.data import load
from gradleak.zoo.models.building import seeded

SPACE = gl.ImageSpace((3, 16, 16))
# Six convolutions without bias as in R-GAP's CNN6, strided and padded in several ways.
KERNELS = (
    (3, 12, 4, 2, 2),
    (12, 36, 3, 2, 1),
    (36, 36, 3, 1, 1),
    (36, 36, 3, 1, 1),
    (36, 64, 3, 2, 1),
    (64, 80, 3, 1, 1),
)


def cnn(classes: int, *, slope: float = 0.2, bias: bool = False, seed: int = 0) -> nn.Sequential:
    def build() -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride, padding in KERNELS:
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias), nn.LeakyReLU(slope)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(80 * 9, classes, bias=False))

    return seeded(seed, build)


def photograph(seed: int) -> Tensor:
    inputs, _ = load("photographs").sample(1, seed=seed)
    return nn.functional.interpolate(inputs, size=16, mode="area")


def psnr(found: Tensor, truth: Tensor) -> float:
    return float(-10 * (found.double() - truth.double()).square().mean().log10())


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 60.0), (torch.float64, 150.0)])
def test_r_gap_on_its_own_setting_beats_its_49_db(dtype: torch.dtype, least: float, label: int) -> None:
    inputs = photograph(label).to(dtype)
    task = gl.Task(cnn(2, seed=label).to(dtype), SPACE, 2)
    observation, _ = gl.capture(task, inputs, torch.tensor([label]))
    result = gl.attacks.r_gap()(observation)
    assert (result.attack, result.status) == ("r_gap", "converged")
    assert result.targets.tolist() == [label]
    assert psnr(result.inputs, inputs) > least


@pytest.mark.parametrize("slope", [0.2, 1.0], ids=["leaky", "identity"])
@pytest.mark.parametrize("bias", [False, True])
def test_ten_classes_with_and_without_biases_below(bias: bool, slope: float) -> None:
    inputs = photograph(3).double()
    task = gl.Task(cnn(10, slope=slope, bias=bias).double(), SPACE, 10)
    result = gl.attacks.layer_recursion()(gl.capture(task, inputs, torch.tensor([7]))[0])
    assert result.status == "converged"
    assert result.targets.tolist() == [7]
    assert psnr(result.inputs, inputs) > 150


@pytest.mark.parametrize("margin", [-3.0, 0.4, 1.278, 1.27846454, 4.0])
def test_the_margin_of_two_classes_solves_the_published_equation(margin: float) -> None:
    weight = torch.tensor([[0.3, -0.2, 0.5], [-0.1, 0.4, 0.2]], dtype=torch.float64)
    features = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64)
    features = features * margin / float((weight[0] - weight[1]) @ features)
    residual = torch.tensor([-1.0, 1.0], dtype=torch.float64) / (1 + math.exp(margin))
    gradient = torch.outer(residual, features)
    assert float((gradient * weight).sum()) == pytest.approx(-margin / (1 + math.exp(margin)))
    found = examples_without_bias(gradient, weight, torch.zeros(2).double(), torch.ones(2).double())
    errors = [float((one.features - features).norm() / features.norm()) for one in found]
    # At its minimum near 1.278 two roots meet, and half of the digits are lost.
    assert min(errors) < (1e-5 if 1.2 < margin < 1.3 else 1e-9)
    # The other label, with features of the opposite sign, has the same gradient.
    assert min(float((one.features + features).norm() / features.norm()) for one in found) < 1e-5


def test_many_classes_single_out_one_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 20, generator=generator, dtype=torch.float64)
    features = torch.rand(20, generator=generator, dtype=torch.float64) / 3
    offset, weights = torch.linspace(-1, 1, 10).double(), torch.linspace(0.5, 2, 10).double()
    residual = torch.softmax(weight @ features + offset, dim=0)
    residual[4] -= 1
    found = examples_without_bias(torch.outer(weights[4] * residual, features), weight, offset, weights)
    torch.testing.assert_close(found[0].features, features)
    torch.testing.assert_close(found[0].residual, weights[4] * residual)


def test_other_losses_without_bias_are_refused_with_words() -> None:
    def squared(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()

    task = gl.Task(cnn(10).double(), SPACE, 10, squared)
    result = gl.attacks.layer_recursion()(gl.capture(task, photograph(0), torch.tensor([1]))[0])
    assert result.status == "not_applicable"
    assert "no trained bias" in result.message
