"""One measure for every attack: how well a candidate reproduces the observed update."""

import torch
from torch import Tensor

from gradleak.attacks.objectives import cosine_distance, normalized_squared_distance
from gradleak.threat import Observation, simulator

REPRODUCED = 1e-6
"""An update counts as reproduced when the squared distance is at most this share of its squared norm.

It says that the search did its work, not that the image is right: where the gradient map is flat, or has fewer
equations than unknowns, wrong images reproduce the update as well.
"""


def mismatch(observation: Observation, variable: Tensor, target_probabilities: Tensor) -> float:
    """Distance between the update of a candidate and the observed one, without units.

    Args:
        observation: what the attacker holds.
        variable: `[N, *variable_shape]`.
        target_probabilities: `[N, C]`.

    Returns:
        The normalized squared distance; for a weight delta without its client, which cannot be simulated, the cosine
        distance between its negative and the candidate's gradient.
    """
    task = observation.task
    with torch.no_grad():
        simulated = simulator(observation)(variable.to(task.device, task.dtype), target_probabilities.to(task.dtype))
    scaleless = observation.client is None and observation.update.kind != "gradient"
    tensors = observation.update.in_gradient_direction() if scaleless else observation.update.tensors
    objective = cosine_distance if scaleless else normalized_squared_distance
    simulated = {name: tensor.double() for name, tensor in simulated.items()}
    return float(objective(simulated, {name: tensor.double() for name, tensor in tensors.items()}))
