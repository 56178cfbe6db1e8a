"""LeNet: the released architecture, initialization and sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gradleak.errors import BadInput
from gradleak.zoo.models import lenet


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_those_of_the_released_network() -> None:
    # 12*3*25+12 + 2*(12*12*25+12) + 768*C+C by hand.
    assert parameters_of(lenet(100)) == 85_036
    assert parameters_of(lenet(10)) == 15_826
    assert lenet(10, 1, input_size=28).get_parameter("linear.weight").shape == (10, 588)
    assert lenet(10, 3).get_parameter("linear.weight").shape == (10, 768)


def released_script_weights(seed: int) -> list[torch.Tensor]:
    """Plain transcription: build the network, seed, then draw weight and bias of each layer from U(-0.5, 0.5)."""
    layers = [
        nn.Conv2d(3, 12, kernel_size=5, padding=2, stride=2),
        nn.Conv2d(12, 12, kernel_size=5, padding=2, stride=2),
        nn.Conv2d(12, 12, kernel_size=5, padding=2, stride=1),
        nn.Linear(768, 100),
    ]
    generator = torch.Generator().manual_seed(seed)  # the stream that the global generator has after this seed
    for layer in layers:
        layer.weight.data.uniform_(-0.5, 0.5, generator=generator)
        assert layer.bias is not None
        layer.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return [parameter.detach() for layer in layers for parameter in layer.parameters()]


def test_seed_1234_gives_the_weights_of_the_released_script() -> None:
    ours = list(lenet(100, seed=1234).parameters())
    theirs = released_script_weights(1234)
    assert len(ours) == len(theirs) == 8
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.equal(mine, expected)


def test_forward_is_three_sigmoid_convolutions_and_a_linear_layer() -> None:
    model, inputs = lenet(7, seed=3), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = inputs
    for name, stride in (("conv1", 2), ("conv2", 2), ("conv3", 1)):
        weight, bias = model.get_parameter(f"{name}.weight"), model.get_parameter(f"{name}.bias")
        features = 1 / (1 + torch.exp(-torch.conv2d(features, weight, bias, stride=stride, padding=2)))
    expected = features.reshape(2, -1) @ model.get_parameter("linear.weight").T + model.get_parameter("linear.bias")
    assert torch.allclose(model(inputs), expected, atol=1e-5)


def test_default_initialization_stays_within_pytorchs_bound() -> None:
    model = lenet(10, initialization="default")
    assert model.get_parameter("conv1.weight").abs().max() <= 75**-0.5
    assert model.get_parameter("linear.bias").abs().max() <= 768**-0.5
    assert lenet(10).get_parameter("linear.bias").abs().max() > 768**-0.5


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 25, 25), (3, 32, 32), (3, 20, 31), (1, 8, 8)])
def test_any_input_size_works(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    model = lenet(5, channels, input_size=(height, width))
    assert model(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Softplus, nn.Sigmoid])
def test_the_activation_is_used_three_times(activation: Callable[[], nn.Module]) -> None:
    kind = type(activation())
    assert sum(isinstance(layer, kind) for layer in lenet(activation=activation)) == 3


def test_weights_depend_on_the_seed_alone_and_leave_the_random_state() -> None:
    before = torch.random.get_rng_state()
    for initialization in ("uniform", "default"):
        first = lenet(initialization=initialization, seed=1).state_dict()
        again = lenet(initialization=initialization, seed=1).state_dict()
        other = lenet(initialization=initialization, seed=2).state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not any(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_all_bad_arguments_are_reported_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        lenet(0, 0, input_size=0, width=0, initialization="normal")  # pyright: ignore[reportArgumentType]
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "num_classes",
        "channels",
        "input_size",
        "width",
        "initialization",
    ]


def test_in_place_activation_and_negative_seed_are_refused() -> None:
    with pytest.raises(BadInput, match="in-place"):
        lenet(activation=lambda: nn.ReLU(inplace=True))
    with pytest.raises(BadInput, match="seed"):
        lenet(seed=-1)
