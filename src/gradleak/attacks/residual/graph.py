"""The recorded operations of one run, walked from the outputs back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from gradleak.attacks.closed_form.layers import Affine
from gradleak.attacks.closed_form.recording import Call

Shortcut = Callable[[Tensor], Tensor]
"""An affine map of `[N, C, H, W]`, differentiable."""

Folded = tuple[Affine, Tensor, "Norm | None"]
"""A convolution with BatchNorm folded in, what that multiplies with, and BatchNorm itself."""

_UNCHANGED = frozenset({"detach", "clone", "alias", "contiguous", "_to_copy", "lift_fresh"})
_RESHAPED = frozenset({"view", "_unsafe_view", "reshape", "flatten", "squeeze"})
_NORMALIZED = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training"})
_LINEAR = frozenset({"slice", "constant_pad_nd", "convolution", "avg_pool2d"}) | _NORMALIZED


@dataclass(frozen=True, eq=False)
class Norm:
    """BatchNorm behind a convolution, for training mode, in which it does not fold into it.

    Attributes:
        weight: of the convolution alone, `[O, I, height, width]`, float64.
        factor: `[O]`, float64; ones without.
        summand: `[O]`, float64; zeros without.
        factor_name: in an update; None if it is not trained.
        summand_name: likewise.
        deviation: of its running variance, `[O]`.
        epsilon: added to variances.
    """

    weight: Tensor
    factor: Tensor
    summand: Tensor
    factor_name: str | None
    summand_name: str | None
    deviation: Tensor
    epsilon: float

    def to(self, like: Tensor) -> "Norm":
        """The same in another precision, on another device."""
        tensors = {name: getattr(self, name).to(like) for name in ("weight", "factor", "summand", "deviation")}
        return replace(self, **tensors)


class NotResidual(Exception):  # noqa: N818  # an answer about a model, not an error
    """The model is not a residual network; the message says where it departs from one."""


@dataclass(frozen=True, eq=False)
class _Node:
    """One operation on the data: its call, and the places of the data among the nodes."""

    call: Call | None
    before: tuple[int, ...]
    result: Tensor


class Graph:
    """Operations on the data; node 0 is the input.

    Args:
        values: the model's parameters and constants by name.
        trained: names of the parameters.
        calls: what ran.
        start: the input.
        outputs: the outputs.
    """

    def __init__(
        self, values: dict[str, Tensor], trained: set[str], calls: list[Call], start: Tensor, outputs: Tensor
    ) -> None:
        self.names = {id(tensor): name for name, tensor in values.items()}
        self.trained = trained
        self.nodes: list[_Node] = [_Node(None, (), start)]
        self.turned: dict[int, Tensor] = {}
        latest = {id(start): 0}
        for call in calls:
            before = tuple(latest[id(value)] for value in call.arguments if id(value) in latest)
            result = call.result[0] if isinstance(call.result, tuple) else call.result
            if not isinstance(result, Tensor):
                continue
            if before:
                latest[id(result)] = before[0] if call.operation in _UNCHANGED else len(self.nodes)
                self.nodes.append(_Node(call, before, result))
            elif call.operation in {"t", "transpose"} and isinstance(call.arguments[0], Tensor):
                self.turned[id(result)] = call.arguments[0]
        self.last = latest.get(id(outputs), 0)

    def operation(self, node: int) -> str:
        """Name of a node's operation."""
        call = self.nodes[node].call
        return "the input" if call is None else call.operation

    def below(self, node: int) -> int:
        """The one node that a node uses."""
        before = self.nodes[node].before
        if len(before) != 1:
            raise NotResidual(f"{self.operation(node)} has {len(before)} inputs where one was expected")
        return before[0]

    def classifier(self) -> tuple[str, str, int]:
        """Names of the classifier's weight and bias, and the node whose mean over positions it receives."""
        if self.operation(self.last) != "addmm":
            raise NotResidual("the outputs do not come from a linear layer with bias")
        call = self.nodes[self.last].call
        assert call is not None
        weight = self.turned.get(id(call.arguments[2]))
        names = [self.names.get(id(value), "") for value in (weight, call.arguments[0])]
        if not set(names) <= self.trained:
            raise NotResidual("the classifier's weight and bias are not both trained")
        node = self.below(self.last)
        while self.operation(node) in _RESHAPED:
            node = self.below(node)
        pooled = self.nodes[node].result
        if self.operation(node) not in {"mean", "avg_pool2d"} or pooled.numel() != self.nodes[node].result.shape[1]:
            raise NotResidual("the classifier does not receive the mean over all positions of a map")
        node = self.below(node)
        if pooled.numel() != self.nodes[node].result.shape[1]:
            raise NotResidual("the mean before the classifier runs over channels")
        return names[0], names[1], node

    def block_below(self, node: int) -> tuple[list[Folded], Shortcut | None, int]:
        """The block that ends in a ReLU: its convolutions with their gains, its shortcut, and the node it receives."""
        if self.operation(node) != "relu":
            raise NotResidual(f"a block ends in {self.operation(node)} and not in ReLU")
        top = self.below(node)
        if self.operation(top) != "add":
            ends = self._walk(top)
            place = next((i for i, one in enumerate(ends) if self.operation(one) in {"relu", "the input"}), None)
            if place is None:
                raise NotResidual(f"{self.operation(top)} comes from neither a ReLU nor the input")
            return self._convolutions(ends[:place]), None, ends[place]
        call = self.nodes[top].call
        before = self.nodes[top].before
        if len(before) != 2 or (call is not None and any(isinstance(one, int | float) for one in call.arguments)):
            raise NotResidual("a sum of other things than two maps")
        one, other = (self._walk(start) for start in before)
        shared = next((node for node in one if node in other), None)
        if shared is None:
            raise NotResidual("the two branches of a sum do not come from one place")
        paths = [path[: path.index(shared)] for path in (one, other)]
        # The shortcut is the branch without a ReLU; the same map added twice is none of ours.
        main, short = sorted(paths, key=lambda path: -sum(self.operation(node) == "relu" for node in path))
        if self.operation(shared) not in {"relu", "the input"} or not main:
            raise NotResidual("a block that does not begin behind a ReLU")
        return self._convolutions(main), self._shortcut(short), shared

    def _walk(self, node: int) -> list[int]:
        """A node and what lies below it, until something has several inputs."""
        path = [node]
        while len(self.nodes[node].before) == 1:
            node = self.nodes[node].before[0]
            path.append(node)
        return path

    def _convolutions(self, path: list[int]) -> list[Folded]:
        """Convolutions with BatchNorm folded in and ReLU between them, from the input up."""
        found: list[Folded] = []
        norm: Call | None = None
        expects_relu = False
        for node in path:
            call = self.nodes[node].call
            assert call is not None
            if call.operation in _NORMALIZED and norm is None and not expects_relu:
                norm = call
            elif call.operation == "relu" and expects_relu:
                expects_relu = False
            elif call.operation == "convolution" and not expects_relu:
                found.append(self._folded(call, norm))
                norm, expects_relu = None, True
            else:
                raise NotResidual(f"{call.operation} inside a block")
        if norm is not None or not expects_relu:
            raise NotResidual("a block that does not begin with a convolution")
        return found[::-1]

    def _folded(self, call: Call, norm: Call | None) -> Folded:
        """One convolution and the BatchNorm behind it as a single convolution, and what that multiplies with."""
        data, weight, bias, stride, padding, dilation, transposed, _, groups = call.arguments
        name = self.names.get(id(weight), "")
        if not isinstance(weight, Tensor) or not isinstance(data, Tensor) or name not in self.trained:
            raise NotResidual("a convolution whose weight is not a trained parameter")
        if transposed or groups != 1:
            raise NotResidual(f"{name} is transposed or grouped")
        steps, pad, spread = (
            cast("tuple[int, int]", tuple(cast("list[int]", value))) for value in (stride, padding, dilation)
        )
        offset = bias.double() if isinstance(bias, Tensor) else torch.zeros(len(weight)).double()
        bias_name, gain = self.names.get(id(bias)), torch.ones(len(weight)).double()
        unfolded = None
        if norm is not None:
            factor, summand, mean, variance = norm.arguments[1:5]
            epsilon = norm.arguments[-1]
            assert isinstance(mean, Tensor)
            assert isinstance(variance, Tensor)
            assert isinstance(epsilon, float)
            ones = torch.ones_like(variance)
            factor = factor if isinstance(factor, Tensor) else ones
            gain = (variance.double() + epsilon).rsqrt() * factor.double()
            if not bool(gain.all()):
                raise NotResidual(f"BatchNorm multiplies channels of {name} with zero")
            offset = (offset - mean.double()) * gain + (summand.double() if isinstance(summand, Tensor) else 0)
            bias_name = self.names.get(id(summand))
            factor_name = self.names.get(id(factor))
            unfolded = Norm(
                weight.double(),
                factor.double(),
                summand.double() if isinstance(summand, Tensor) else 0 * ones.double(),
                factor_name if factor_name in self.trained else None,
                bias_name if bias_name in self.trained else None,
                (variance.double() + epsilon).sqrt(),
                epsilon,
            )
        result = cast("Tensor", call.result)
        layer = Affine(
            name,
            weight.double() * gain.view(-1, 1, 1, 1),
            offset,
            bias_name if bias_name in self.trained else None,
            steps,
            pad,
            spread,
            tuple(data.shape[1:]),
            tuple(result.shape[1:]),
        )
        return layer, gain, unfolded

    def _shortcut(self, path: list[int]) -> Shortcut:
        """The operations of a branch without ReLU, run again on other data."""
        calls = [self.nodes[node].call for node in reversed(path)]
        for call in calls:
            if call is None or call.operation not in _LINEAR:
                raise NotResidual(f"{'the input' if call is None else call.operation} in a shortcut")

        def run(maps: Tensor) -> Tensor:
            for call in calls:
                assert call is not None
                rest = [
                    value.detach().to(maps) if isinstance(value, Tensor) and value.is_floating_point() else value
                    for value in call.arguments[1:]
                ]
                result = call.function(maps, *rest)
                maps = cast("Tensor", result[0] if isinstance(result, tuple) else result)
            return maps

        return run
