"""The update that a client shares; its sign and scale are fixed here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

UpdateKind = Literal["gradient", "delta"]

# The one place where signs are decided: multiply an update's tensors by this to get the direction of the gradient.
_GRADIENT_SIGN: Mapping[UpdateKind, int] = {"gradient": 1, "delta": -1}


@dataclass(frozen=True, eq=False)
class Update:
    """Named tensors that a client shares, in the order of the model's parameters.

    Sign and scale follow from the kind:

    - `"gradient"`: `+dL/dw` of the loss averaged over the private batch.
    - `"delta"`: `w_after - w_before`, that is `-lr` times a sum of gradients after plain SGD.

    Attributes:
        tensors: one real tensor for each trained parameter, by name, of that parameter's shape.
        kind: `"gradient"` or `"delta"`.
        buffers: BatchNorm's running statistics and counters after the client's step, by name; empty if the client did
            not send them.
        coarseness: relative rounding error of the entries where it is larger than that of their type: a difference of
            weights keeps only what the weights' own digits leave of it.
    """

    tensors: Mapping[str, Tensor]
    kind: UpdateKind = "gradient"
    buffers: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    coarseness: float = 0.0

    def in_gradient_direction(self) -> dict[str, Tensor]:
        """The tensors with the sign of a gradient; a delta keeps its unknown positive scale."""
        sign = _GRADIENT_SIGN[self.kind]
        return {name: sign * tensor for name, tensor in self.tensors.items()}

    def squared_norm(self) -> float:
        """Sum of squares over all tensors, in float64."""
        return float(sum(float(tensor.double().square().sum()) for tensor in self.tensors.values()))

    @property
    def rounding(self) -> float:
        """Relative rounding error of the entries: the spacing of their type, or the coarseness."""
        return max(self.coarseness, *(torch.finfo(tensor.dtype).eps for tensor in self.tensors.values()))

    @property
    def is_empty(self) -> bool:
        """Whether every entry is zero, so that the update says nothing about any batch."""
        return not any(bool(tensor.any()) for tensor in self.tensors.values())


def difference_rounding(deltas: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float:
    """Relative rounding error of differences of weights, which is that of the weights in units of the difference.

    Args:
        deltas: differences of weights, by name.
        weights: one side of each difference.

    Returns:
        The largest over all tensors that are not zero; 0 if there is none.
    """

    def size(tensor: Tensor) -> float:
        return float(tensor.double().square().mean().sqrt())

    return max(
        (
            torch.finfo(tensor.dtype).eps * size(weights[name]) / size(tensor)
            for name, tensor in deltas.items()
            if bool(tensor.any())
        ),
        default=0.0,
    )


def parted(sent: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a client sent, parted into the update's tensors and the buffers.

    Args:
        sent: by name, as `Client.bind` gives it.
        parameters: the trained parameters that are sent, by name.

    Returns:
        The tensors in the order of the parameters, and the rest.
    """
    return {name: sent[name] for name in parameters}, {
        name: tensor for name, tensor in sent.items() if name not in parameters
    }


def buffer_problems(buffers: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> list[str]:
    """Everything that keeps tensors from being buffers of a model with these constants, one line each."""
    problems: list[str] = []
    for name, tensor in buffers.items():
        if name not in constants:
            problems.append(f"buffer[{name}]: expected only buffers of the model, got this extra name; remove it")
        elif tensor.shape != constants[name].shape:
            problems.append(
                f"buffer[{name}]: expected shape {list(constants[name].shape)}, got {list(tensor.shape)}; "
                "check that the update belongs to this model"
            )
        elif not bool(torch.isfinite(tensor).all()):
            problems.append(f"buffer[{name}]: expected finite values, got NaN or infinity; find the overflow")
    return problems


def update_problems(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> list[str]:
    """Everything that keeps tensors from being an update of these parameters, one line each.

    Args:
        tensors: what was received, by name.
        parameters: the model's trained parameters, by name.

    Returns:
        Lines worded expected / got / what to do; empty when all is well.
    """
    problems = [
        f"update[{name}]: expected a tensor of shape {list(parameters[name].shape)}, got none; "
        "send every trained parameter, or freeze it in the model"
        for name in parameters
        if name not in tensors
    ]
    for name, tensor in tensors.items():
        if name not in parameters:
            problems.append(
                f"update[{name}]: expected only trained parameters of the model, got this extra name; "
                "remove or rename it"
            )
        elif tensor.shape != parameters[name].shape:
            problems.append(
                f"update[{name}]: expected shape {list(parameters[name].shape)}, got {list(tensor.shape)}; "
                "check that the update belongs to this model"
            )
        elif not tensor.is_floating_point():
            problems.append(
                f"update[{name}]: expected real floating-point values, got {tensor.dtype}; dequantize or convert it"
            )
        elif not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            problems.append(
                f"update[{name}]: expected finite values, got {bad} NaN or infinite of {tensor.numel()}; "
                "find the overflow in the client's step"
            )
    return problems
