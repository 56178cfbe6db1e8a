"""Convolutions whose second backward pass computes only what an attack asks for.

A distance between updates is differentiated by the candidate, never by the weights. PyTorch's second derivative of a
convolution computes the one by the weights all the same, as a convolution with a kernel as large as the image, and
drops it. For `y = x * w + b` with the backward pass `(g_x, g_w, g_b)` of a cotangent g, and cotangents `(p, q, r)` of
these three, all that is left to compute is

    g <- p * w + x * q + r,     x <- the backward pass of g through a convolution with q.

BatchNorm in evaluation mode is a chain of some twenty elementwise passes there. After a convolution it only rescales
the kernel, so that the two together have the backward passes of one convolution with a bias.

The kernels are PyTorch's own. Python between them costs more than it saves on small layers, so `worthwhile` decides.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""By input, kernel and bias; None where not asked for."""

FEWEST_MULTIPLICATIONS = 2_000_000
"""Of the average convolution. Below, PyTorch's own second derivative is as fast (measured on a processor)."""

_CONVOLUTIONS = frozenset({functional.conv1d, functional.conv2d, functional.conv3d})


def worthwhile(forward: Callable[[], object]) -> bool:
    """Whether a network's convolutions are large enough for `ConstantWeights` to save time.

    Args:
        forward: runs the network once, on a batch of the size that an attack gives it.

    Returns:
        False for small layers and for a network without convolutions.
    """
    with torch.no_grad(), _Count() as count:
        forward()
    return count.multiplications >= FEWEST_MULTIPLICATIONS * max(count.convolutions, 1)


class _Count(TorchFunctionMode):
    """Counts convolutions and their multiplications."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = 0
        self.multiplications = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        result = func(*args, **named)
        if func in _CONVOLUTIONS:
            kernel = args[1] if len(args) > 1 else named["weight"]
            self.convolutions += 1
            self.multiplications += result.numel() * kernel[0].numel()
        return result


@dataclass(frozen=True)
class _Shape:
    """How a kernel moves, one number for each of the last axes."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x * kernel + bias`."""
        none = [0] * len(self.stride)
        return torch.convolution(x, kernel, bias, self.stride, self.padding, self.dilation, False, none, self.groups)

    def backward(self, g: Tensor, x: Tensor, kernel: Tensor, asked: Sequence[bool]) -> Gradients:
        """The gradients asked for of `<g, x * kernel + bias>`."""
        none, biases = [0] * len(self.stride), [kernel.shape[0]]
        return torch.ops.aten.convolution_backward(
            g, x, kernel, biases, self.stride, self.padding, self.dilation, False, none, self.groups, asked
        )


class _Call(NamedTuple):
    """A convolution that was just computed, so that a BatchNorm can find it."""

    output: Tensor
    x: Tensor
    kernel: Tensor
    bias: Tensor | None
    shape: _Shape
    versions: tuple[int, int]

    def gave(self, tensor: Tensor) -> bool:
        """Whether this is its output, and nothing was changed in place since."""
        return tensor is self.output and (self.output._version, self.x._version) == self.versions


class ConstantWeights(TorchFunctionMode):
    """Weights that have a gradient while this is entered, and are constants from the exit on.

    Convolutions, and BatchNorm in evaluation mode after one, are replaced as the module says. A layer with a weight
    that is none of those given (made from the input, or by a parametrization) is left to PyTorch.

    Args:
        weights: leaves by which nothing is differentiated after the exit.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.weights = {id(weight) for weight in weights}
        self.have_gradient = True
        self._last: _Call | None = None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """From here on the weights are constants."""
        self.have_gradient = False
        self._last = None
        super().__exit__(exc_type, exc_val, exc_tb)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace what is known, whose arguments keep torch's names."""
        named = dict(kwargs or {})
        result = None
        if func in _CONVOLUTIONS:
            result = self._convolution(*args, **named)
        elif func is functional.batch_norm:
            result = self._batch_norm(*args, **named)
        return func(*args, **named) if result is None else result

    def reach(self, x: Tensor) -> bool:
        """Whether `x` was computed from any of the weights."""
        nodes, seen = [x.grad_fn], set[object]()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if id(getattr(node, "variable", None)) in self.weights:
                return True
            nodes.extend(before for before, _ in node.next_functions)
        return id(x) in self.weights

    def _constant(self, *weights: Tensor | None) -> bool:
        return all(weight is None or not weight.requires_grad or id(weight) in self.weights for weight in weights)

    def _convolution(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor | None:
        axes = weight.dim() - 2
        if isinstance(padding, str) or input.dim() != axes + 2 or torch.is_autocast_enabled(input.device.type):
            return None
        if not self._constant(weight, bias):
            return None
        shape = _Shape(_each(stride, axes), _each(padding, axes), _each(dilation, axes), groups)
        output = _Convolution.apply(input, weight, bias, shape, self, None)
        assert isinstance(output, Tensor)
        self._last = _Call(output, input, weight, bias, shape, (output._version, input._version))
        return output

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor | None:
        last, self._last = self._last, None
        if training or running_mean is None or running_var is None or last is None or not last.gave(input):
            return None
        if last.kernel.dtype != running_var.dtype or not self._constant(running_mean, running_var, weight, bias):
            return None

        def output() -> Tensor:
            return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)

        scale = torch.rsqrt(running_var + eps) if weight is None else weight * torch.rsqrt(running_var + eps)
        shift = -running_mean if last.bias is None else last.bias - running_mean
        shift = shift * scale if bias is None else torch.addcmul(bias, shift, scale)
        kernel = last.kernel * scale.view(-1, *[1] * (last.kernel.dim() - 1))
        return _Convolution.apply(last.x, kernel, shift, last.shape, self, output)  # pyright: ignore[reportReturnType]


class _Convolution(torch.autograd.Function):
    """A convolution whose gradient by kernel and bias exists in the first backward pass only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor | None,
        shape: _Shape,
        mode: ConstantWeights,
        output: Callable[[], Tensor] | None,
    ) -> Tensor:
        ctx.shape, ctx.mode = shape, mode
        # The first pass stops where no weight lies before, as PyTorch's own does.
        ctx.inner = mode.reach(x)
        ctx.save_for_backward(x, kernel)
        return shape.forward(x, kernel, bias) if output is None else output()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grad_outputs
        x, kernel = ctx.saved_tensors
        first = ctx.mode.have_gradient
        by_x, by_kernel, by_bias = ctx.needs_input_grad[:3]
        asked = (by_x and (ctx.inner or not first), by_kernel and first, by_bias and first)
        if torch.is_grad_enabled():
            return *_Backward.apply(g, x, kernel, ctx.shape, asked), None, None, None  # pyright: ignore[reportGeneralTypeIssues]
        return *ctx.shape.backward(g, x, kernel, asked), None, None, None


class _Backward(torch.autograd.Function):
    """The backward pass of a convolution, differentiable by cotangent and input any number of times."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, kernel: Tensor, shape: _Shape, asked: Sequence[bool]) -> Gradients:
        ctx.shape = shape
        ctx.save_for_backward(g, x, kernel)
        ctx.set_materialize_grads(False)
        return shape.backward(g, x, kernel, asked)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        p, q, r = grad_outputs
        g, x, kernel = ctx.saved_tensors
        # In PyTorch's order of summation, for its bits.
        by_g = None if p is None else ctx.shape.forward(p, kernel)
        if q is not None:
            by_g = ctx.shape.forward(x, q) if by_g is None else by_g + ctx.shape.forward(x, q)
        if r is not None:
            spread = r.view(-1, *[1] * (g.dim() - 2))
            by_g = spread.expand_as(g) if by_g is None else by_g + spread
        by_x = None
        if q is not None and ctx.needs_input_grad[1]:
            by_x = ctx.shape.backward(g, x, q, (True, False, False))[0]
        return by_g, by_x, None, None, None


def _each(size: int | Sequence[int], axes: int) -> list[int]:
    """A number for each axis, however it was given."""
    sizes = [size] if isinstance(size, int) else list(size)
    return sizes * axes if len(sizes) == 1 else sizes
