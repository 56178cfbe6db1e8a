"""Reading chains out of models: by what they compute, with a reason when they are none."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradleak as gl
from gradleak.attacks.closed_form.activations import Activation
from gradleak.attacks.closed_form.layers import Affine, AveragePool, Chain, read_chain
from gradleak.zoo.models import convnet, lenet, mlp, resnet20
from tests.problems import TinyTransformer, images

SPACE = gl.ImageSpace((3, 8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


class Functional(nn.Module):
    """Written with functions, an in-place activation and a weight that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(4, 5, 3, padding="same", dilation=2)
        self.weight = nn.Parameter(torch.randn(10, 20, generator=torch.Generator().manual_seed(0)))

    def forward(self, pixels: Tensor) -> Tensor:
        values = functional.leaky_relu(self.first(pixels), 0.2)
        values = functional.elu(functional.avg_pool2d(self.second(values), 2), inplace=True)
        return values.reshape(len(values), -1) @ self.weight.T


class Untransposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(192, 10))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) @ self.weight


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 192)
        self.head = nn.Linear(192, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(1)
        return self.head(flat + self.layer(flat))


def chain_of(model: nn.Module, space: gl.ImageSpace = SPACE) -> Chain | str:
    task = gl.Task(model.double(), space, num_classes=10)
    return read_chain(task, task.state())


@pytest.mark.parametrize(
    "model",
    [
        lenet(10, input_size=8, width=3),
        lenet(10, input_size=8, width=3, activation=lambda: nn.Softplus(beta=3)),
        convnet(10, input_size=8, width=2, pooling="average", activation=nn.Tanh),
        mlp(192, (7, 5), 10, activation=nn.Sigmoid),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)),
    ],
    ids=["lenet", "softplus", "average", "mlp", "global-pool"],
)
def test_chain_computes_what_the_model_computes(model: nn.Module) -> None:
    task = gl.Task(model.double(), SPACE, num_classes=10)
    chain = read_chain(task, task.state())
    assert isinstance(chain, Chain)
    batch = images(3, (3, 8, 8))
    expected = task.space.forward(model, task.state().parameters, batch)
    torch.testing.assert_close(chain(batch), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(chain.denormalize(chain.normalize(batch)), batch)


def test_layers_are_found_by_what_they_compute() -> None:
    named = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.Flatten(), nn.Linear(64, 10))
    found = chain_of(named)
    assert isinstance(found, Chain)
    first, last = found.layers[0], found.layers[-1]
    assert isinstance(first, Affine)
    assert isinstance(last, Affine)
    assert (first.name, first.bias_name, first.stride, first.padding) == ("0.weight", None, (2, 2), (1, 1))
    assert (last.name, last.bias_name, last.is_convolution) == ("2.weight", "2.bias", False)
    assert found.shapes == ((3, 8, 8), (4, 4, 4), (64,))


def test_functions_count_like_modules() -> None:
    model = Functional()
    found = chain_of(nn.Sequential(model, nn.Identity(), nn.Dropout(0.5)))
    assert isinstance(found, Chain)
    kinds = [layer.kind if isinstance(layer, Activation) else type(layer).__name__ for layer in found.layers]
    assert kinds == ["Affine", "leaky_relu", "Affine", "AveragePool", "elu", "Reshape", "Affine"]
    batch = images(2, (3, 8, 8))
    expected = model((batch - found.mean) / found.std)
    torch.testing.assert_close(found(batch), expected.detach(), rtol=1e-12, atol=1e-12)


def test_frozen_layers_are_no_layers_of_an_update() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Sigmoid(), nn.Linear(5, 10))
    model[1].requires_grad_(requires_grad=False)
    assert chain_of(model) == "a layer whose weight is not a trained parameter of the model"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branch(), "a branch: add"),
        (Untransposed(), "mm is not a linear layer"),
        (resnet20(), "native_batch_norm"),
        (TinyTransformer(), "clone|permute|transpose|native|layer_norm"),
        (convnet(10, input_size=8, width=2), "max_pool2d"),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(216, 10)), "grouped"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.GELU()), "gelu"),
        (nn.Sequential(nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(75, 10)), "padding"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.LeakyReLU(-0.1)), "cannot be inverted"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.SELU()), "scaled elu"),
    ],
    ids=[
        "branch",
        "untransposed",
        "resnet",
        "transformer",
        "max-pool",
        "groups",
        "gelu",
        "padded-pool",
        "negative",
        "selu",
    ],
)
def test_says_why_a_model_is_no_chain(model: nn.Module, reason: str) -> None:
    space = gl.ImageSpace((3, 16, 16)) if isinstance(model, TinyTransformer) else SPACE
    found = chain_of(model, space)
    assert isinstance(found, str)
    assert any(part in found for part in reason.split("|")), found


def test_average_pooling_is_read_with_its_stride() -> None:
    found = chain_of(nn.Sequential(nn.AvgPool2d(3, stride=2), nn.Flatten(), nn.Linear(27, 10)))
    assert isinstance(found, Chain)
    assert found.layers[0] == AveragePool((3, 3), (2, 2))


@pytest.mark.parametrize(
    "activation",
    [
        Activation("sigmoid"),
        Activation("tanh"),
        Activation("softplus", 3.0),
        Activation("leaky_relu", 0.2),
        Activation("elu", 1.5),
    ],
    ids=lambda activation: activation.kind,
)
def test_inverse_and_slope(activation: Activation) -> None:
    points = torch.linspace(-4, 4, 41, dtype=torch.float64) + 0.01
    values = activation(points)
    torch.testing.assert_close(activation.inverse(values), points, rtol=1e-9, atol=1e-9)
    point = points.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(activation(point).sum(), point)
    torch.testing.assert_close(activation.slope(values), slopes, rtol=1e-9, atol=1e-12)
    low, high = activation.interval
    assert low < float(values.min()) < float(values.max()) < high
