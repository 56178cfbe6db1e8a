"""Linear layers with a ReLU between each and the next, from the input or from anywhere up to the outputs."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.attacks.closed_form.linear_layer import Entry, find_entry
from gradleak.attacks.labels.dummies import dummy_variables
from gradleak.threat import Observation

_DUMMIES = 256


@dataclass(frozen=True, eq=False)
class ReluChain:
    """Consecutive linear layers from the one that the input enters.

    Attributes:
        entry: the first layer.
        weights: names of the weights, first layer first.
        reaches_outputs: whether the last of them makes the model's outputs.
        activations: what dummy inputs give before each ReLU, `[M, m]` for every layer.
    """

    entry: Entry
    weights: tuple[str, ...]
    reaches_outputs: bool
    activations: tuple[Tensor, ...]


def find_relu_chain(observation: Observation, seed: int = 0) -> ReluChain | str:
    """Follow the input through linear layers as long as each receives the ReLU of the one before.

    Args:
        observation: what the attacker holds.
        seed: decides the dummy inputs that are sent through.

    Returns:
        The chain, or why there is none.
    """
    task, state = observation.task, observation.state
    entry = find_entry(task, state)
    if entry is None:
        return "no linear layer receives the input itself"
    module = copy.deepcopy(task.model).eval()
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.setdefault(f"{name}.weight".lstrip("."), (inputs[0].detach(), output.detach()))

        return hook

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(record(name))
    with torch.no_grad():
        dummies = dummy_variables(task.space, _DUMMIES, seed).to(task.device, task.dtype)
        outputs = task.space.forward(module, {**state.parameters, **state.constants}, dummies)
    names = [entry.weight]
    following = _next_layer(seen, seen[entry.weight][1], names)
    while following is not None:
        names.append(following)
        following = _next_layer(seen, seen[following][1], names)
    last = seen[names[-1]][1]
    reaches = last.shape == outputs.shape and bool(torch.equal(last, outputs))
    return ReluChain(entry, tuple(names), reaches, tuple(seen[name][1].double() for name in names))


def _next_layer(seen: dict[str, tuple[Tensor, Tensor]], output: Tensor, passed: list[str]) -> str | None:
    """The layer not yet passed whose input is the ReLU of an output."""
    active = output.clamp_min(0)
    for name, (received, _) in seen.items():
        if name not in passed and received.shape == active.shape and torch.equal(received, active):
            return name
    return None
