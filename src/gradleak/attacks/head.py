"""Where the classifier is: the linear layer that makes the outputs."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.tasks import ModelState, Task


@dataclass(frozen=True)
class Head:
    """Names of the last linear layer's parameters, as they appear in an update.

    Attributes:
        weight: name of the weight `[C, D]`.
        bias: name of the bias `[C]`, or None.
    """

    weight: str
    bias: str | None


def find_head(task: Task, state: ModelState) -> Head | None:
    """Find the linear layer whose output is the model's output, by running the model once on a zero input.

    Layers are found by what they compute, not by their position among the parameters, which frozen, tied or
    renamed parameters would shift.

    Args:
        task: the public task.
        state: the model's values.

    Returns:
        The head, or None if the outputs do not come straight from an `nn.Linear` with a trained weight.
    """
    name = output_module(task, state)
    if name is None:
        return None
    weight, bias = (f"{name}.{kind}".lstrip(".") for kind in ("weight", "bias"))
    return Head(weight, bias if bias in state.parameters else None) if weight in state.parameters else None


def output_module(task: Task, state: ModelState) -> str | None:
    """The name of the `nn.Linear` whose output is the model's output, by running the model once.

    Args:
        task: the public task.
        state: the model's values.

    Returns:
        None if the outputs do not come straight from one.
    """
    module = copy.deepcopy(task.model).eval()
    made: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _layer, _inputs, output: made.update({name: output})

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(record(name))
    variable = torch.zeros((1, *task.space.variable_shape), dtype=task.dtype, device=task.device)
    with torch.no_grad():
        outputs = task.space.forward(module, {**state.parameters, **state.constants}, variable)
    for name, output in made.items():
        if output.data_ptr() == outputs.data_ptr() and output.shape == outputs.shape:
            return name
    return None
