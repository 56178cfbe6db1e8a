"""What the gradient of a last layer with bias says about a single example, and the target that goes with it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.tasks import soft_cross_entropy
from gradleak.threat import Observation

# A recovered row of target probabilities this close to one class is that class.
_HARD_TARGET = 1e-3


@dataclass(frozen=True, eq=False)
class SingleExample:
    """What the gradient of the last layer says about a single example; nothing in it is approximate.

    Attributes:
        features: what enters the last layer, `[D]`.
        residual: derivative of the loss with respect to the outputs, `[C]`.
        precision: relative rounding or noise of the update's entries, measured by how far the weight gradient is
            from the outer product of the two, at least the rounding of its type.
    """

    features: Tensor
    residual: Tensor
    precision: float


def single_example(weight_gradient: Tensor, bias_gradient: Tensor) -> SingleExample:
    """Features and residual of one example from the gradient of the last layer.

    Args:
        weight_gradient: `[C, D]`, in the type in which it was shared.
        bias_gradient: `[C]`, not all zero.

    Returns:
        Both, in float64.
    """
    rows, residual = weight_gradient.double(), bias_gradient.double()
    features = rows.T @ residual / residual.square().sum()
    misfit = rows - torch.outer(residual, features)
    relative = float(misfit.norm() / rows.norm().clamp(min=1e-300))
    return SingleExample(features, residual, max(relative, torch.finfo(weight_gradient.dtype).eps / 2))


def target_row(observation: Observation, outputs: Tensor, residual: Tensor) -> Tensor:
    """The target of a single example: `softmax(outputs) - residual` under cross-entropy.

    Args:
        observation: what the attacker holds; given targets are used.
        outputs: of the model, `[C]`.
        residual: derivative of the loss with respect to them.

    Returns:
        A class index `[1]`, or probabilities `[1, C]` of a soft target.
    """
    if observation.targets is not None:
        return observation.targets
    row = torch.softmax(outputs, dim=0) - residual
    # Where the network is so sure that rounding left no negative residual, the class is the one predicted.
    label = (residual.argmin() if bool((residual < 0).any()) else outputs.argmax())[None]
    soft = observation.task.loss is soft_cross_entropy and float(row.min()) > -_HARD_TARGET
    if not soft or float(row.max()) > 1 - _HARD_TARGET:
        return label
    row = row.clamp(min=0)
    return (row / row.sum())[None]
