"""Which tokens are targets of a language model's positions, by the gradient of its output's bias."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradleak.threat import Observation


def target_tokens(observation: Observation) -> Tensor | None:
    """Tokens that are certainly targets: a residual `p - y` summed over positions is negative only with a target.

    Args:
        observation: what the attacker holds, of a task that classifies every token.

    Returns:
        Classes in ascending order, or None where the outputs have no bias of their own with a gradient, or its
        gradient is nowhere negative.
    """
    name = output_bias(observation)
    tensor = None if name is None else observation.update.in_gradient_direction().get(name)
    if tensor is None:
        return None
    found = (tensor < 0).nonzero().flatten()
    return found if len(found) else None


def output_bias(observation: Observation) -> str | None:
    """Name of the bias of the linear layer whose output is the model's, however its weight is tied."""
    task, state = observation.task, observation.state
    module = copy.deepcopy(task.model).eval()
    made: list[tuple[nn.Linear, Tensor]] = []

    def record(layer: nn.Linear) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _layer, _inputs, output: made.append((layer, output))

    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.out_features == task.num_classes:
            layer.register_forward_hook(record(layer))
    variable = torch.zeros((1, *task.space.variable_shape), dtype=task.dtype, device=task.device)
    with torch.no_grad():
        outputs = task.space.forward(module, {**state.parameters, **state.constants}, variable)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for layer, output in made:
        if output.data_ptr() == outputs.data_ptr() and output.shape == outputs.shape and id(layer.bias) in names:
            return names[id(layer.bias)]
    return None
