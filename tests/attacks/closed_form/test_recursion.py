"""Layer recursion: exact single examples, and the numbers with which it declines."""

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form.recursion import layer_recursion, single_example
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet, mlp
from tests.problems import images, labels, small_lenet


def psnr(found: Tensor, truth: Tensor) -> float:
    return float(-10 * (found.double() - truth.double()).square().mean().log10())


@pytest.mark.parametrize("initialization", ["uniform", "default"])
@pytest.mark.parametrize("seed", [0, 1])
def test_photograph_from_a_float32_update(initialization: str, seed: int) -> None:
    inputs, targets = load("photographs").sample(1, seed=seed)
    model = lenet(10, initialization=initialization, seed=seed)  # pyright: ignore[reportArgumentType]
    observation, truth = gl.capture(gl.Task(model, gl.ImageSpace((3, 32, 32)), 10), inputs, targets % 10)
    result = layer_recursion()(observation)
    assert result.status == "converged"
    assert result.targets.tolist() == truth.targets.tolist()
    assert psnr(result.inputs, truth.inputs) > 85
    assert "conv2.weight: 3072 unknowns, 3648 equations" in result.message
    assert result.evaluations == 1


@pytest.mark.parametrize(
    "activation",
    [nn.Sigmoid, nn.Tanh, nn.ELU, lambda: nn.Softplus(beta=2.0), lambda: nn.LeakyReLU(0.2)],
    ids=["sigmoid", "tanh", "elu", "softplus", "leaky"],
)
def test_invertible_activations_are_exact_in_float64(activation: object) -> None:
    task = small_lenet(activation=activation, initialization="default")
    observation, truth = gl.capture(task, images(1), labels(1))
    result = layer_recursion()(observation)
    assert psnr(result.variable, truth.inputs) > 150


def test_normalization_strides_and_layers_without_bias() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.Tanh(),
        nn.Conv2d(16, 24, 3, stride=1, padding=0),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(24 * 36, 30),
        nn.Sigmoid(),
        nn.Linear(30, 10),
    )
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.2, 0.2, generator=generator)
    space = gl.ImageSpace((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    observation, truth = gl.capture(gl.Task(model.double(), space, 10), images(1), labels(1))
    result = layer_recursion()(observation)
    assert result.status == "converged"
    assert psnr(result.variable, truth.inputs) > 120


def test_rows_through_an_mlp() -> None:
    task = gl.Task(mlp(20, (30, 25), 10, activation=nn.Tanh).double(), gl.TabularSpace(20), 10)
    rows = torch.randn(1, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    observation, _ = gl.capture(task, rows, torch.tensor([7]))
    result = layer_recursion()(observation)
    assert float((result.inputs - rows).abs().max()) < 1e-8
    assert result.targets.tolist() == [7]


def test_soft_targets_are_recovered() -> None:
    target = torch.softmax(torch.linspace(0, 2, 10, dtype=torch.float64), dim=0)[None]
    observation, _ = gl.capture(small_lenet(), images(1), target)
    result = layer_recursion()(observation)
    torch.testing.assert_close(result.target_probabilities, target, rtol=0, atol=1e-6)
    assert result.status == "converged"


def test_single_example_measures_the_noise_of_the_update() -> None:
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(10, generator=generator, dtype=torch.float64)
    features = torch.rand(50, generator=generator, dtype=torch.float64)
    exact = torch.outer(residual, features)
    assert single_example(exact, residual).precision < 1e-14
    noisy = exact + 1e-3 * exact.norm() / 500**0.5 * torch.randn(10, 50, generator=generator, dtype=torch.float64)
    assert single_example(noisy, residual).precision == pytest.approx(1e-3, rel=0.15)
    torch.testing.assert_close(single_example(exact, residual).features, features)


def test_relu_is_exact_where_the_rank_suffices() -> None:
    observation, truth = gl.capture(small_lenet(activation=nn.ReLU, initialization="default"), images(1), labels(1))
    result = layer_recursion()(observation)
    assert result.status == "converged"
    assert psnr(result.variable, truth.inputs) > 150


def test_relu_declines_with_the_rank_it_found() -> None:
    inputs, _ = load("photographs").sample(1, seed=0)
    model = lenet(10, initialization="default", activation=nn.ReLU)
    observation, _ = gl.capture(gl.Task(model, gl.ImageSpace((3, 32, 32)), 10), inputs, labels(1))
    result = layer_recursion()(observation)
    assert result.status == "not_applicable"
    assert "weight has 3072 unknown inputs and " in result.message
    assert 2000 < int(result.message.split(" and ")[1].split()[0]) < 3072


def test_declines_what_it_cannot_do() -> None:
    def reason(observation: gl.Observation) -> str:
        result = layer_recursion()(observation)
        assert result.status == "not_applicable"
        assert bool(result.inputs.isnan().all())
        return result.message

    batch, _ = gl.capture(small_lenet(), images(2), labels(2))
    assert "the batch has 2" in reason(batch)
    headless = nn.Sequential(nn.Conv2d(3, 10, 16), nn.Flatten())
    assert "linear layer" in reason(
        gl.capture(gl.Task(headless.double(), gl.ImageSpace((3, 16, 16)), 10), images(1), labels(1))[0]
    )
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(392, 10))
    task = gl.Task(pooled.double(), gl.ImageSpace((3, 16, 16)), 10)
    assert "average pooling" in reason(gl.capture(task, images(1), labels(1))[0])
    narrow = small_lenet(width=2)
    assert "unknown inputs" in reason(gl.capture(narrow, images(1), labels(1))[0])
    empty, _ = gl.capture(small_lenet(), images(1), labels(1))
    for tensor in empty.update.tensors.values():
        tensor.zero_()
    assert "zero" in reason(empty)


def test_a_noisy_update_gives_no_false_claim() -> None:
    observation, _ = gl.capture(
        small_lenet(), images(1), labels(1), defenses=[gl.defenses.GaussianNoise(std=1.0)], seed=1
    )
    result = layer_recursion()(observation)
    assert result.status != "converged"


def test_bit_reproducible() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    first, second = layer_recursion()(observation), layer_recursion()(observation, seed=1)
    assert torch.equal(first.variable, second.variable)
