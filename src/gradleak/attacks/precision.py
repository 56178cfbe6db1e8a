"""The same observation in another floating-point precision, for attacks that compute in float64."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from gradleak.tasks import ModelState
from gradleak.threat import Observation


def in_precision(observation: Observation, dtype: torch.dtype) -> Observation:
    """Convert model, state and update; the values that the client shared stay what they are.

    Args:
        observation: what the attacker holds; it is not changed.
        dtype: a real floating-point type.

    Returns:
        The observation itself if it has this precision already.
    """
    if observation.task.dtype == dtype:
        return observation

    def converted(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    task, state, update = observation.task, observation.state, observation.update
    return replace(
        observation,
        task=replace(task, model=copy.deepcopy(task.model).to(dtype)),
        state=ModelState(
            {name: converted(value) for name, value in state.parameters.items()},
            {name: converted(value) for name, value in state.constants.items()},
        ),
        update=replace(
            update,
            tensors={name: converted(value) for name, value in update.tensors.items()},
            buffers={name: converted(value) for name, value in update.buffers.items()},
        ),
    )
