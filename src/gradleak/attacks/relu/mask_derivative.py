"""A derivative for the masks of ReLU and max-pooling, in the second backward pass only.

The weight gradients of a ReLU net depend on the input through masks `1[z > 0]`, whose derivative automatic
differentiation takes as zero; an attack that descends on them does not see how the masks move. Here the forward pass
and the first backward pass keep their exact values, bit for bit, so that every objective keeps its value too. Only
when the backward pass itself is differentiated, the mask has the derivative

    d 1[z > 0] / dz := beta s (1 - s),   s = 1 / (1 + exp(-beta z)),

as a surrogate gradient does in the training of spiking networks. For max-pooling the choice of the largest entry of
a window has the derivative of `softmax(beta z)` over that window.

Everything happens while a call is wrapped, by overriding what torch's functions do: no model is copied or changed,
and functional forms (`F.relu`, `torch.relu`, `clamp(min=0)`) are covered like modules.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradleak.clients import Simulate


@dataclass(frozen=True)
class MaskDerivative:
    """How steep the derivative of masks is.

    Args:
        beta: steepness for ReLU, in 1 / units of the pre-activation if not `relative`. 1 to 5 helps, 20 does not.
        pool_beta: steepness for the choice within a window of max-pooling; None leaves max-pooling as it is.
        relative: divide both by the standard deviation of the layer's pre-activations at the candidate.
    """

    beta: float
    pool_beta: float | None = None
    relative: bool = False

    def wrap(self, step: Simulate) -> Simulate:
        """The same client step with the derivative in its second backward pass.

        Args:
            step: a client's bound step; it is called with the overrides in force.

        Returns:
            A step with bit-equal values, for use under `torch.func` transforms and `torch.autograd`.
        """

        def simulate(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            with _Overrides(self):
                return step(variable, target_probabilities)

        return simulate

    def relu(self, z: Tensor, slope: float = 0.0) -> Tensor:
        """(Leaky) ReLU of `z` of any shape, with this derivative of its mask."""
        return _Relu.apply(z, slope, self._steepness(self.beta, z))  # pyright: ignore[reportReturnType]

    def max_pool2d(self, z: Tensor, kernel: tuple[int, int]) -> Tensor:
        """Max-pooling of `[N, C, H, W]` over windows side by side, with this derivative of its choice."""
        assert self.pool_beta is not None
        height, width = kernel
        rows, columns = z.shape[-2] // height, z.shape[-1] // width
        inside = z[..., : rows * height, : columns * width]
        windows = inside.reshape(*z.shape[:-2], rows, height, columns, width).transpose(-3, -2).flatten(-2)
        return _Largest.apply(windows, self._steepness(self.pool_beta, z))  # pyright: ignore[reportReturnType]

    def _steepness(self, beta: float, z: Tensor) -> Tensor:
        scale = z.detach().std().clamp_min(1e-12) if self.relative else torch.ones((), dtype=z.dtype, device=z.device)
        return beta / scale


class _Relu(torch.autograd.Function):
    """Exact forward and first backward; the mask's derivative comes from `_Gate`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, slope: float, beta: Tensor) -> Tensor:
        del beta
        return torch.relu(z) if slope == 0 else functional.leaky_relu(z, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, Tensor], output: Tensor) -> None:
        z, ctx.slope, beta = inputs
        ctx.save_for_backward(z, beta)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (cotangent,) = grad_outputs
        z, beta = ctx.saved_tensors
        return _Gate.apply(cotangent, z, ctx.slope, beta), None, None  # pyright: ignore[reportReturnType]


class _Gate(torch.autograd.Function):
    """`cotangent * 1[z > 0]`, differentiable in both."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cotangent: Tensor, z: Tensor, slope: float, beta: Tensor) -> Tensor:
        del beta
        closed = torch.zeros_like(cotangent) if slope == 0 else cotangent * slope
        return torch.where(z <= 0, closed, cotangent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float, Tensor], output: Tensor) -> None:
        cotangent, z, ctx.slope, beta = inputs
        ctx.save_for_backward(cotangent, z, beta)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = grad_outputs
        cotangent, z, beta = ctx.saved_tensors
        s = torch.sigmoid(beta * z)
        moving = incoming * cotangent * ((1 - ctx.slope) * beta * s * (1 - s))
        return _Gate.apply(incoming, z, ctx.slope, beta), moving, None, None  # pyright: ignore[reportReturnType]


class _Largest(torch.autograd.Function):
    """Largest entry along the last axis; backward to the first largest one, as max-pooling does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(windows: Tensor, beta: Tensor) -> Tensor:
        del beta
        return windows.amax(dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (cotangent,) = grad_outputs
        windows, beta = ctx.saved_tensors
        return _Route.apply(cotangent, windows, beta), None  # pyright: ignore[reportReturnType]


class _Route(torch.autograd.Function):
    """`cotangent * 1[entry is the largest of its window]`, differentiable in both."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cotangent: Tensor, windows: Tensor, beta: Tensor) -> Tensor:
        del beta
        return torch.where(_chosen(windows), cotangent[..., None], 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = grad_outputs
        cotangent, windows, beta = ctx.saved_tensors
        shares = torch.softmax(beta * windows, dim=-1)
        mean = (shares * incoming).sum(dim=-1, keepdim=True)
        moving = cotangent[..., None] * beta * shares * (incoming - mean)
        return torch.where(_chosen(windows), incoming, 0).sum(dim=-1), moving, None


def _chosen(windows: Tensor) -> Tensor:
    """Mask of the first largest entry of each window `[..., K]`."""
    positions = torch.arange(windows.shape[-1], device=windows.device)
    return positions == windows.argmax(dim=-1, keepdim=True)


class _Overrides(TorchFunctionMode):
    """Replaces ReLU, leaky ReLU, `clamp(min=0)` and max-pooling over windows side by side, while it is entered."""

    def __init__(self, derivative: MaskDerivative) -> None:
        super().__init__()
        self.derivative = derivative

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        replaced = self._replaced(func, args, named)
        return func(*args, **named) if replaced is None else replaced

    def _replaced(self, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Tensor | None:
        """The result of the derivative's own function, or None where torch's serves."""
        if func in _RELU:
            return self._relu(_argument(args, named, 0, "input"), 0.0, _argument(args, named, 1, "inplace"))
        if func in _RELU_IN_PLACE:
            return self._relu(_argument(args, named, 0, "input"), 0.0, True)
        if func is functional.leaky_relu:
            slope = _argument(args, named, 1, "negative_slope")
            in_place = _argument(args, named, 2, "inplace")
            return self._relu(_argument(args, named, 0, "input"), 0.01 if slope is None else float(slope), in_place)
        if func in _CLAMP or func in _CLAMP_MIN:
            low = _argument(args, named, 1, "min")
            high = _argument(args, named, 2, "max") if func in _CLAMP else None
            plain = isinstance(low, int | float) and low == 0 and high is None
            return self._relu(_argument(args, named, 0, "input"), 0.0, False) if plain else None
        if func in _MAX_POOL and self.derivative.pool_beta is not None:
            kernel = _side_by_side(args, named)
            return None if kernel is None else self.derivative.max_pool2d(_argument(args, named, 0, "input"), kernel)
        return None

    def _relu(self, z: Tensor, slope: float, in_place: object) -> Tensor:
        if not in_place:
            return self.derivative.relu(z, slope)
        return z.copy_(self.derivative.relu(z.clone(), slope))


def _argument(args: Sequence[Any], named: Mapping[str, Any], position: int, name: str) -> Any:
    """An argument of a torch function however it was given; None if it was left out."""
    return args[position] if len(args) > position else named.get(name)


def _side_by_side(args: Sequence[Any], named: Mapping[str, Any]) -> tuple[int, int] | None:
    """The window of a max-pooling whose windows neither overlap nor leave gaps, or None for any other."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    kernel, stride, padding, dilation, ceil_mode = (
        _argument(args, named, position, name) for position, name in enumerate(names, start=1)
    )
    if _argument(args, named, 6, "return_indices"):
        return None
    plain = not ceil_mode and _pair(padding or 0) == (0, 0) and _pair(dilation or 1) == (1, 1)
    return _pair(kernel) if plain and _pair(stride or kernel) == _pair(kernel) else None


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


_MAX_POOL = frozenset({functional.max_pool2d, torch.max_pool2d})
_RELU = frozenset({functional.relu, torch.relu, Tensor.relu})
_RELU_IN_PLACE = frozenset({torch.relu_, Tensor.relu_})
_CLAMP = frozenset({torch.clamp, Tensor.clamp})
_CLAMP_MIN = frozenset({torch.clamp_min, Tensor.clamp_min})
