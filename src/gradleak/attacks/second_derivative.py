"""Whether a client's step can be differentiated twice at all, and PyTorch's words where it cannot."""

import torch
from torch.autograd.function import BackwardCFunction

from gradleak.attacks.layout import Layout
from gradleak.clients.stateless import stateless_copy
from gradleak.threat import Observation, simulator

NO_SECOND_DERIVATIVE = "no second derivative"
"""Begins every message of an attack that needs double backward where it does not run."""

_WORDS = ("derivative for", "differentiate twice", "double backward", "once_differentiable")


def lacks_derivative(error: BaseException) -> bool:
    """Whether an exception says that a derivative does not exist, rather than that a call was wrong."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def explained(error: BaseException) -> str:
    """The sentence for people, with the first line of PyTorch's own."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{NO_SECOND_DERIVATIVE}: {reason}; use derivative='finite_difference'"


def no_second_derivative(observation: Observation, layout: Layout) -> str | None:
    """Why an update cannot be differentiated by the input, for models with autograd Functions of their own.

    A Function marked `once_differentiable` cuts the graph of its gradient. Differentiating by the input alone then
    passes by the cut without a word, and a search would follow a wrong derivative. A whole backward pass finds it.
    Models of PyTorch's own functions are not run: those raise by themselves.

    Args:
        observation: what the attacker holds.
        layout: of the candidates.

    Returns:
        A sentence, or None where nothing speaks against double backward.

    Raises:
        RuntimeError: whatever else the model's own backward pass raises.
    """
    task = observation.task
    variable = torch.full(layout.variable_shape, 0.5, dtype=layout.dtype, device=layout.device)
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in observation.state.parameters.items()}
        module = stateless_copy(task.model, mode="eval", dropout="off").module
        outputs = task.space.forward(module, leaves, variable)
    if not _has_functions(outputs):
        return None
    shape = (len(variable), *layout.target_shape)
    targets = torch.full(shape, 1 / shape[-1], dtype=layout.dtype, device=layout.device)
    try:
        with torch.enable_grad():
            update = simulator(observation)(variable.requires_grad_(), targets)
            torch.stack([tensor.square().sum() for tensor in update.values()]).sum().backward()
    except RuntimeError as error:
        if lacks_derivative(error):
            return explained(error)
        raise
    return None


def _has_functions(outputs: torch.Tensor) -> bool:
    """Whether a custom Function lies in the graph."""
    nodes, seen = [outputs.grad_fn], set[object]()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            return True
        nodes.extend(before for before, _ in node.next_functions)
    return False
