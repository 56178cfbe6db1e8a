"""What a training step costs, the unit in which the cost of attacks is stated."""

import time

import torch
from torch import Tensor

from gradleak.tasks import Task

_REPEATS = 3


def training_step_seconds(task: Task, inputs: Tensor, targets: Tensor) -> float:
    """Wall time of one forward and backward pass of the task's loss on a batch, the least of three.

    Args:
        task: the public task; its model's gradients are left alone.
        inputs: `[N, ...]` in the input space's own units.
        targets: class indices `[N]` or probabilities `[N, C]`.

    Returns:
        Seconds.
    """
    state = task.state()
    leaves = {name: value.detach().requires_grad_() for name, value in state.parameters.items()}
    variable, probabilities = task.encode(inputs), task.target_probabilities(targets)
    taken: list[float] = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        with torch.enable_grad():
            outputs = task.space.forward(task.model, {**leaves, **state.constants}, variable)
            torch.autograd.grad(task.loss(outputs, probabilities), list(leaves.values()), allow_unused=True)
        taken.append(time.perf_counter() - began)
    return min(taken)
