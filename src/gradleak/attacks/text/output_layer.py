"""The linear layer that makes a model's outputs, tied to the embedding or not."""

from dataclasses import dataclass

from torch import nn

from gradleak.attacks.head import output_module
from gradleak.tasks import ModelState, Task


@dataclass(frozen=True)
class OutputLayer:
    """Names of the last linear layer and of its parameters, as they appear in the model's state.

    Attributes:
        module: the layer's name.
        weight: of its weight `[C, d]`; that of the embedding if the two are one.
        bias: of its bias `[C]`, or None.
        tied: whether the weight is the token embedding's.
    """

    module: str
    weight: str
    bias: str | None
    tied: bool


def find_output_layer(task: Task, state: ModelState, embedding: nn.Embedding | None) -> OutputLayer | None:
    """Find the `nn.Linear` whose output is the model's output, by running the model once.

    Args:
        task: the public task.
        state: the model's values.
        embedding: that of the tokens, if there is one.

    Returns:
        Its names, or None if the outputs do not come straight from a linear layer.
    """
    names = {id(parameter): name for name, parameter in reversed(list(task.model.named_parameters()))}
    name = output_module(task, state)
    if name is None:
        return None
    layer = task.model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    tied = embedding is not None and layer.weight is embedding.weight
    bias = None if layer.bias is None else names[id(layer.bias)]  # pyright: ignore[reportUnnecessaryComparison]
    return OutputLayer(name, names[id(layer.weight)], bias, tied)
