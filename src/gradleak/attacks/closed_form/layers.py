"""The layers of a sequential network, read from what the model computes and not from how it is written.

The model runs once, and every tensor operation of that run is recorded. A model is a chain when each operation on the
data uses the result of the one before it and nothing else but trained or constant values of the model.
"""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradleak.attacks.closed_form.activations import Activation, ActivationKind
from gradleak.attacks.closed_form.recording import Call, Recorder
from gradleak.tasks import ImageSpace, ModelState, TabularSpace, Task


@dataclass(frozen=True, eq=False)
class Affine:
    """A convolution without groups or a linear layer, in float64: `z = weight * x + bias`.

    Attributes:
        name: name of the weight in an update.
        weight: `[O, I, height, width]` of a convolution, `[O, I]` of a linear layer.
        bias: `[O]`, zeros if the layer has none.
        bias_name: name of the bias in an update, or None if it is not trained.
        stride: of a convolution, `(height, width)`.
        padding: of a convolution, zeros on each side.
        dilation: of a convolution.
        input_shape: of one example.
        output_shape: of one example.
    """

    name: str
    weight: Tensor
    bias: Tensor
    bias_name: str | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution."""
        return self.weight.dim() == 4

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs `[N, *output_shape]` of inputs `[N, *input_shape]`."""
        weight, bias = self.weight.to(inputs), self.bias.to(inputs)
        if self.is_convolution:
            return nn.functional.conv2d(inputs, weight, bias, self.stride, self.padding, self.dilation)
        return nn.functional.linear(inputs, weight, bias)


@dataclass(frozen=True)
class AveragePool:
    """Means over windows.

    Attributes:
        kernel: window, `(height, width)`.
        stride: distance of windows.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Pooled maps of `[N, C, H, W]`."""
        return nn.functional.avg_pool2d(inputs, self.kernel, self.stride)


@dataclass(frozen=True)
class Reshape:
    """A change of shape that keeps the order of the entries.

    Attributes:
        shape: of one example afterwards.
    """

    shape: tuple[int, ...]

    def __call__(self, inputs: Tensor) -> Tensor:
        """The same entries as `[N, *shape]`."""
        return inputs.reshape(len(inputs), *self.shape)


Layer = Affine | Activation | AveragePool | Reshape


@dataclass(frozen=True, eq=False)
class Chain:
    """A sequential network on normalized inputs, ending in its outputs.

    Attributes:
        layers: in order.
        shapes: of one example as it enters each layer.
        mean: what the input space subtracts, broadcast to one example.
        std: what it divides by after that.
    """

    layers: tuple[Layer, ...]
    shapes: tuple[tuple[int, ...], ...]
    mean: Tensor
    std: Tensor

    def normalize(self, variable: Tensor) -> Tensor:
        """What the model receives for a variable `[N, ...]`."""
        return (variable - self.mean.to(variable)) / self.std.to(variable)

    def denormalize(self, inputs: Tensor) -> Tensor:
        """The variable behind what the model receives."""
        return inputs * self.std.to(inputs) + self.mean.to(inputs)

    def __call__(self, variable: Tensor) -> Tensor:
        """Outputs `[N, C]` of a variable `[N, ...]`, in its precision."""
        values = self.normalize(variable)
        for layer in self.layers:
            values = layer(values)
        return values


class NotAChain(Exception):  # noqa: N818  # an answer about a model, not an error
    """The model is not a chain of known layers; the message says where it departs from one."""


def read_chain(task: Task, state: ModelState) -> Chain | str:
    """Read the layers of a task's model by running it once on zeros, in evaluation mode.

    Args:
        task: the public task.
        state: the model's values.

    Returns:
        The chain, or one clause that says why the model is not one.
    """
    space = task.space
    if not isinstance(space, ImageSpace | TabularSpace):
        return f"the inputs are neither images nor rows but {type(space).__name__}"
    values = {**state.parameters, **state.constants}
    zeros = torch.zeros((1, *space.variable_shape), dtype=task.dtype, device=task.device)
    recorder = Recorder()
    with torch.no_grad(), recorder:
        outputs = functional_call(copy.deepcopy(task.model).eval(), values, (zeros,))
    try:
        layers = _Reader(values, state).read(zeros, recorder.calls, outputs)
    except NotAChain as reason:
        return str(reason)
    mean, std = torch.zeros(()).double(), torch.ones(()).double()
    if isinstance(space, ImageSpace):
        mean, std = (torch.tensor(numbers, dtype=torch.float64).view(-1, 1, 1) for numbers in (space.mean, space.std))
    return Chain(layers, _shapes(layers, zeros), mean, std)


def _shapes(layers: tuple[Layer, ...], inputs: Tensor) -> tuple[tuple[int, ...], ...]:
    """Shape of one example as it enters each layer."""
    shapes: list[tuple[int, ...]] = []
    for layer in layers:
        shapes.append(tuple(inputs.shape[1:]))
        inputs = layer(inputs)
    return tuple(shapes)


_SIMPLE: dict[str, ActivationKind] = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu"}
_PARAMETRIC: dict[str, tuple[ActivationKind, float]] = {
    "leaky_relu": ("leaky_relu", 0.01),
    "elu": ("elu", 1.0),
    "softplus": ("softplus", 1.0),
}
_UNCHANGED = frozenset({"detach", "clone", "alias", "contiguous", "_to_copy", "lift_fresh"})
_RESHAPED = frozenset({"view", "_unsafe_view", "reshape", "flatten", "squeeze", "unsqueeze"})


class _Reader:
    """Follows the data through recorded operations."""

    def __init__(self, values: dict[str, Tensor], state: ModelState) -> None:
        self.names = {id(tensor): name for name, tensor in values.items()}
        self.state = state
        self.transposed: dict[int, Tensor] = {}
        self.layers: list[Layer] = []

    def read(self, start: Tensor, calls: list[Call], outputs: Tensor) -> tuple[Layer, ...]:
        """The layers that lead from `start` to `outputs`."""
        current, seen = start, {id(start)}
        for call in calls:
            data = [value for value in call.arguments if isinstance(value, Tensor) and id(value) in seen]
            if not data:
                self._note_weight(call)
                continue
            if len(data) > 1 or data[0] is not current:
                raise NotAChain(f"a branch: {call.operation} uses the result of an earlier layer again")
            if not isinstance(call.result, Tensor):
                raise NotAChain(f"{call.operation} has several results")
            layer = self._layer(call, current, call.result)
            if layer is not None:
                self.layers.append(layer)
            current = call.result
            seen.add(id(current))
        if current is not outputs:
            raise NotAChain("its outputs are not the result of the last operation on the data")
        return tuple(self.layers)

    def _note_weight(self, call: Call) -> None:
        """Remember transposed weights, which linear layers use."""
        turned = call.operation in {"t", "transpose", "permute"} and isinstance(call.result, Tensor)
        if turned and isinstance(call.arguments[0], Tensor) and call.arguments[0].dim() == 2:
            self.transposed[id(call.result)] = call.arguments[0]

    def _layer(self, call: Call, data: Tensor, result: Tensor) -> Layer | None:
        """The layer that one operation on the data is, or None if it changes nothing."""
        operation, arguments = call.operation, call.arguments
        if operation in _UNCHANGED:
            return None
        if operation in _SIMPLE:
            return Activation(_SIMPLE[operation])
        if operation in _PARAMETRIC:
            return _parametric(operation, arguments)
        if operation in _RESHAPED and len(result) == 1:
            return Reshape(tuple(result.shape[1:]))
        if operation == "convolution":
            return self._convolution(arguments, data, result)
        if operation in {"addmm", "mm"}:
            bias, weight = (arguments[0], arguments[2]) if operation == "addmm" else (None, arguments[1])
            if data is not arguments[-2 if operation == "mm" else 1] or id(weight) not in self.transposed:
                raise NotAChain(f"{operation} is not a linear layer with a weight of the model")
            return self._affine(self.transposed[id(weight)], bias, data, result, (1, 1), (0, 0), (1, 1))
        if operation == "avg_pool2d":
            return _average_pool(arguments)
        if operation == "mean" and data.dim() == 4 and result.shape[1:] in {data.shape[1:2], (data.shape[1], 1, 1)}:
            self.layers.append(AveragePool((data.shape[2], data.shape[3]), (data.shape[2], data.shape[3])))
            return Reshape(tuple(result.shape[1:]))
        raise NotAChain(f"{operation} is no convolution, linear layer, average pooling or known activation")

    def _convolution(self, arguments: tuple[object, ...], data: Tensor, result: Tensor) -> Affine:
        """A convolution with one group."""
        _, weight, bias, stride, padding, dilation, transposed, _, groups = arguments
        if transposed or groups != 1 or data.dim() != 4:
            raise NotAChain("a convolution that is transposed, grouped or not over images")
        pairs = [cast("tuple[int, int]", tuple(cast("list[int]", value))) for value in (stride, padding, dilation)]
        return self._affine(weight, bias, data, result, *pairs)

    def _affine(
        self,
        weight: object,
        bias: object,
        data: Tensor,
        result: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Affine:
        """A layer whose weight is a trained parameter."""
        name = self.names.get(id(weight), "")
        if not isinstance(weight, Tensor) or name not in self.state.parameters:
            raise NotAChain("a layer whose weight is not a trained parameter of the model")
        bias_name = self.names.get(id(bias))
        if bias is not None and bias_name is None:
            raise NotAChain(f"the bias added after {name} is not a value of the model")
        offset = bias.double() if isinstance(bias, Tensor) else torch.zeros(len(weight)).double()
        trained = bias_name if bias_name in self.state.parameters else None
        shapes = tuple(data.shape[1:]), tuple(result.shape[1:])
        return Affine(name, weight.double(), offset, trained, stride, padding, dilation, *shapes)


def _parametric(operation: str, arguments: tuple[object, ...]) -> Activation:
    """An activation with a number; refuses extra numbers that change the function."""
    kind, default = _PARAMETRIC[operation]
    numbers = [float(value) for value in arguments[1:] if isinstance(value, int | float)]
    parameter = numbers[0] if numbers else default
    if kind == "elu" and any(number != 1.0 for number in numbers[1:]):
        raise NotAChain("a scaled elu")
    if parameter <= 0:
        raise NotAChain(f"{operation} with a parameter of {parameter:g}, which cannot be inverted")
    return Activation(kind, parameter)


def _average_pool(arguments: tuple[object, ...]) -> AveragePool:
    """A pooling without padding, ceiling or another divisor."""
    kernel = tuple(cast("list[int]", arguments[1]))
    stride = tuple(cast("list[int]", arguments[2])) if len(arguments) > 2 and arguments[2] else kernel
    if any(cast("list[int]", value) not in ([0, 0], False, True, None) for value in arguments[3:]) or (
        len(arguments) > 4 and arguments[4]
    ):
        raise NotAChain("an average pooling with padding, ceiling or a divisor of its own")
    return AveragePool(cast("tuple[int, int]", kernel), cast("tuple[int, int]", stride))
