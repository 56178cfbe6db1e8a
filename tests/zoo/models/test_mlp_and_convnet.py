"""The two plain networks."""

import pytest
import torch
from torch import nn

from gradleak.errors import BadInput
from gradleak.zoo.models import convnet, mlp


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_mlp_is_flatten_linear_relu_linear() -> None:
    model, inputs = mlp(12, (5, 4), 3, seed=1), torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    weights = list(model.parameters())
    features = inputs.reshape(2, 12)
    for weight, bias in zip(weights[:4:2], weights[1:4:2], strict=True):
        features = (features @ weight.T + bias).clamp(min=0)
    assert torch.allclose(model(inputs), features @ weights[4].T + weights[5], atol=1e-6)
    assert parameters_of(mlp(3072)) == 3072 * 400 + 400 + 4000 + 10


def test_mlp_without_hidden_layer_is_linear() -> None:
    assert [type(layer) for layer in mlp(4, (), 2)] == [nn.Flatten, nn.Linear]


def test_mlp_refuses_bad_widths() -> None:
    with pytest.raises(BadInput) as caught:
        mlp(0, (3, 0), 0)
    assert len(caught.value.problems) == 3
    assert "hidden[1]" in str(caught.value)


def test_convnet_size() -> None:
    # (27*32+32) + (288*64+64) + (576*64+64) + (576*128+128) + (1152*128+128) + (2048*10+10)
    assert parameters_of(convnet()) == 298_250


def test_convnet_poolings_and_sizes() -> None:
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in convnet()) == 3
    assert sum(isinstance(layer, nn.AvgPool2d) for layer in convnet(pooling="average")) == 3
    assert convnet(4, 1, input_size=(25, 9), width=4, activation=nn.Tanh)(torch.zeros(2, 1, 25, 9)).shape == (2, 4)


def test_convnet_refuses_small_inputs_and_unknown_pooling() -> None:
    with pytest.raises(BadInput) as caught:
        convnet(input_size=7, pooling="median")  # pyright: ignore[reportArgumentType]
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["input_size", "pooling"]


def test_seeds_decide() -> None:
    def first(model: nn.Module) -> torch.Tensor:
        return next(model.parameters())

    assert torch.equal(first(convnet(width=4, seed=1)), first(convnet(width=4, seed=1)))
    assert not torch.equal(first(convnet(width=4, seed=1)), first(convnet(width=4, seed=2)))
    assert torch.equal(first(mlp(4, seed=1)), first(mlp(4, seed=1)))
    assert not torch.equal(first(mlp(4, seed=1)), first(mlp(4, seed=2)))
