"""What an update must be multiplied with to become the gradient of the batch's loss."""

import torch

from gradleak.attacks.labels.dummies import client_mode, dummy_variables
from gradleak.clients import Gradient
from gradleak.threat import Observation

# A local run whose update points elsewhere than the gradient by more than this share has no meaningful scale.
_LARGEST_CURVATURE = 0.2


def gradient_scale(observation: Observation, batch_size: int) -> float | str:
    """Find the positive factor between the update, in the gradient's direction, and the gradient.

    For a weight delta the attacker's own simulation of the client is compared with a gradient, on dummy inputs.

    Args:
        observation: what the attacker holds.
        batch_size: number of private examples, on which the number of local steps depends.

    Returns:
        The factor (1 for a gradient), or why there is none.
    """
    client = observation.client
    if isinstance(client, Gradient) or (client is None and observation.update.kind == "gradient"):
        return 1.0
    if client is None:
        return "a weight delta has an unknown scale without its client, and counts need it"
    task, state = observation.task, observation.state
    variable = dummy_variables(task.space, batch_size, seed=1).to(task.device, task.dtype)
    targets = task.target_probabilities(torch.arange(batch_size) % task.num_classes)
    sent = client.bind(task, state)(variable, targets)
    sign = 1 if client.kind == "gradient" else -1
    gradient = Gradient(mode=client_mode(observation), dropout="off").bind(task, state)(variable, targets)
    # Buffers that are sent too have no scale.
    left = torch.cat([sign * sent[name].flatten().double() for name in gradient])
    right = torch.cat([tensor.flatten().double() for tensor in gradient.values()])
    factor = float(left.dot(right) / right.dot(right))
    rest = float((left - factor * right).norm() / left.norm().clamp_min(1e-300))
    if factor <= 0 or rest > _LARGEST_CURVATURE:
        return f"the client's local steps bend its update away from the gradient by {rest:.0%}, so counts have no scale"
    return 1 / factor
