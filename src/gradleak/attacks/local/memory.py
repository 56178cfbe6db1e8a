"""How much memory a simulation of local steps takes, and how much there is."""

import os
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradleak.clients.local_training import LocalTraining
from gradleak.clients.step import bound_step
from gradleak.tasks import ModelState, Task

GIGABYTE = 1e9
# Besides the graph there are gradients, the optimizer's history and what other programs take meanwhile.
_SHARE = 0.5
# Intermediate results of the second backward pass, which live for one step: as much as its graph again.
_WORK = 2.0

Way = Literal["graph", "checkpoints", "none"]


@dataclass(frozen=True)
class StepBytes:
    """What one local step holds.

    Attributes:
        graph: everything its derivative needs, in bytes.
        weights: the weights after it and what the optimizer remembers, in bytes.
    """

    graph: int
    weights: int


def step_bytes(client: LocalTraining, task: Task, state: ModelState, count: int) -> StepBytes:
    """Measure one step with a graph, on a batch of zeros.

    Args:
        client: with local steps.
        task: the public task.
        state: the model's values.
        count: examples of a step.

    Returns:
        What it holds.
    """
    step = bound_step(client, task, state, all_trained=True)
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {name: value.detach().requires_grad_() for name, value in step.parameters.items()}
    variable = torch.zeros((count, *task.space.variable_shape), dtype=task.dtype, device=task.device)
    targets = torch.full((count, task.num_classes), 1 / task.num_classes, dtype=task.dtype, device=task.device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = step(parameters, step.buffers, variable.requires_grad_(), targets)
        after, memory = client.rule(parameters, result.gradients, {}, 1)
    kept = [*after.values(), *result.buffers.values(), *(value for kind in memory.values() for value in kind.values())]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    return StepBytes(sum(seen.values()) + weights, weights)


def available_bytes(limit_gb: float | None, device: torch.device) -> float:
    """Memory that a simulation may take, in bytes: the limit, or half of what is free; infinite if that is unknown."""
    if limit_gb is not None:
        return limit_gb * GIGABYTE
    if device.type == "cuda":
        return _SHARE * torch.cuda.mem_get_info(device)[0]
    try:
        return _SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not every system tells
        return float("inf")


def needed_bytes(one: StepBytes, steps: int) -> dict[Way, float]:
    """Bytes that the derivative of so many steps takes, by way."""
    work = _WORK * one.graph
    return {"graph": steps * one.graph + work, "checkpoints": steps * one.weights + work}


def steps_that_fit(one: StepBytes, available: float) -> int:
    """The largest number of steps that checkpoints allow; -1 for any number."""
    left = available - _WORK * one.graph
    if left == float("inf"):
        return -1
    return max(0, int(left // max(one.weights, 1)))


def choose_way(one: StepBytes, steps: int, available: float) -> Way:
    """The fastest way whose memory is there."""
    needed = needed_bytes(one, steps)
    if needed["graph"] <= available:
        return "graph"
    return "checkpoints" if needed["checkpoints"] <= available else "none"
