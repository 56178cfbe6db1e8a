"""Targets that go with inputs that are already known."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gradleak.attacks.head import find_head
from gradleak.attacks.labels.dummies import responses
from gradleak.threat import Observation


def targets_of(observation: Observation, variable: Tensor) -> Tensor:
    """The targets of known inputs, from the gradient of the last layer.

    `dW = R^T A / N` is solved for the residuals `R = p - y`, whose most negative entry in each row is the class; a
    positive factor, as in a weight delta, changes nothing. Given targets are put in the order of the inputs. Where the
    outputs do not come from a linear layer, the model's own predictions (or the given order) stand in.

    Args:
        observation: what the attacker holds.
        variable: the inputs' variable `[N, ...]`; errors are tolerated as long as the features stay independent.

    Returns:
        Class indices `[N]`, or the given targets in the right order.
    """
    task, given = observation.task, observation.targets
    if given is not None and len(given) == 1 == len(variable):
        return given
    head = find_head(task, observation.state)
    if head is None:
        if given is not None and len(given) == len(variable):
            return given
        with torch.no_grad():
            values = {**observation.state.parameters, **observation.state.constants}
            outputs = task.space.forward(task.model, values, variable.to(task.device, task.dtype))
        return outputs.argmax(dim=1)
    gradient = observation.update.in_gradient_direction()
    features = responses(observation, head, variable, len(variable)).features
    residuals = head_residuals(features, gradient[head.weight], None if head.bias is None else gradient[head.bias])
    if given is None or len(given) != len(variable):
        return residuals.argmin(dim=1)
    cost = residuals @ task.target_probabilities(given).double().T
    return given[torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1])]


def head_residuals(features: Tensor, weight_gradient: Tensor, bias_gradient: Tensor | None) -> Tensor:
    """The derivative of the loss in the logits of each example, from the last layer's inputs and its gradient.

    Args:
        features: `[N, D]`, linearly independent.
        weight_gradient: `[C, D]`.
        bias_gradient: `[C]`, or None.

    Returns:
        `[N, C]`, in the units of the gradient: for a mean over the batch divided by N.
    """
    features, observed = features.double(), weight_gradient.double()
    if bias_gradient is not None:
        # The bias is one more feature; weighted like the others so that rounding counts alike.
        size = features.square().mean().sqrt()
        features = torch.cat([features, size.expand(len(features), 1)], dim=1)
        observed = torch.cat([observed, size * bias_gradient.double()[:, None]], dim=1)
    return torch.linalg.lstsq(features.T, observed.T, driver="gelsd").solution
