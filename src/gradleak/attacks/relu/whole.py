"""The search objective for ReLU nets that cannot be peeled: the whole client step, with the derivative of its masks."""

import torch
from torch import Tensor

from gradleak.attacks.head import find_head
from gradleak.attacks.objectives import cosine_distance
from gradleak.attacks.relu.mask_derivative import MaskDerivative
from gradleak.optim import Energy
from gradleak.threat import Observation, simulator


def whole_energy(observation: Observation, targets: Tensor, derivative: MaskDerivative) -> Energy:
    """Cosine distance of the simulated update to the observed one; for a single gradient, features beside it.

    For one example and a classifier with a bias, the classifier's tensors say exactly what its input `a` is, so they
    leave the cosine, and `|a' - a|^2 / |a|^2` is added instead, both read from the gradients.

    Args:
        observation: what the attacker holds.
        targets: target probabilities `[N, C]`.
        derivative: of the masks.

    Returns:
        The energy of one flat batch `[D]`.
    """
    task = observation.task
    step = derivative.wrap(simulator(observation))
    observed = {name: tensor.to(task.dtype) for name, tensor in observation.update.tensors.items()}
    shape = (len(targets), *task.space.variable_shape)
    head = find_head(task, observation.state) if len(targets) == 1 and observation.update.kind == "gradient" else None
    if head is None or head.bias is None or len(observed) == 2 or not bool(observed[head.bias].any()):
        return lambda candidate: cosine_distance(step(candidate.view(shape), targets), observed)
    weight, bias = head.weight, head.bias
    below = {name: tensor for name, tensor in observed.items() if name not in {weight, bias}}
    features = _features(observed[weight], observed[bias])
    scale = features.square().sum().clamp_min(torch.finfo(task.dtype).tiny)

    def energy(candidate: Tensor) -> Tensor:
        simulated = step(candidate.view(shape), targets)
        gap = _features(simulated[weight], simulated[bias]) - features
        return cosine_distance({name: simulated[name] for name in below}, below) + gap.square().sum() / scale

    return energy


def _features(weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """Input of a linear layer `[D]` from its gradients of one example, by least squares over the rows."""
    return weight_gradient.T @ bias_gradient / bias_gradient.square().sum()
