"""Small models around one activation, and custom Functions that break double backward in different ways."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

import gradleak as gl
from tests.problems import images

SPACE = gl.ImageSpace((3, 16, 16))
INPUTS, TARGETS = images(2).float(), torch.tensor([1, 4])


class Around(nn.Module):
    """A convolution, an activation that is a function or a module, and a classifier."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, stride=2)
        self.activation = activation
        self.head = nn.LazyLinear(10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.activation(self.conv(pixels)).flatten(1))


class Tokens(nn.Module):
    """A layer on 48 tokens of 16 numbers, whose outputs are averaged."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.LazyLinear(10)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = pixels.flatten(1).reshape(len(pixels), 48, 16)
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.head(self.layer(tokens, tokens, tokens, need_weights=False)[0].mean(dim=1))
        found = self.layer(tokens)
        return self.head((found[0] if isinstance(found, tuple) else found).mean(dim=1))


class Attend(nn.Module):
    """Attention by the functional call, above a layer whose gradient passes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        heads = self.project(tokens)[:, None]
        return functional.scaled_dot_product_attention(heads, heads, heads)[:, 0]


def around(activation: Callable[[Tensor], Tensor]) -> nn.Module:
    return _built(lambda: Around(activation))


def on_tokens(layer: Callable[[], nn.Module]) -> nn.Module:
    return _built(lambda: Tokens(layer()))


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        model = build()
        model(INPUTS)  # gives lazy layers their sizes
    return model


def inspected(model: nn.Module) -> gl.Inspection:
    return gl.inspect(model, INPUTS, TARGETS, space=SPACE, num_classes=10, seconds=0.1)


class Once(torch.autograd.Function):
    """A sigmoid whose derivative cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        y = torch.sigmoid(z)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return cotangent * y * (1 - y)


class Detached(torch.autograd.Function):
    """A sigmoid whose backward pass forgets that its factor depends on the input, without an error."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.slope = (torch.sigmoid(z) * torch.sigmoid(-z)).detach()
        return torch.sigmoid(z)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0] * ctx.slope


class StraightThrough(torch.autograd.Function):
    """Rounding with the derivative of the identity."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return torch.round(8 * z) / 8

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0]


class OnceSigmoid(nn.Module):
    """`Once` as a module."""

    def forward(self, z: Tensor) -> Tensor:
        return Once.apply(z)  # pyright: ignore[reportReturnType]
