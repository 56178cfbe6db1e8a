"""What rounding took from the gradient of an example that the network is sure of.

Under a softmax cross-entropy the rows of the classifier's gradient sum to zero, as probabilities and targets both sum
to one. The row of the true class holds `p - 1`, which is rounded when it is formed: at p = 1 - 1e-6 float32 keeps one
digit of it, and closer to 1 none. The other rows hold small probabilities with all their digits, so minus their sum is
the true class's row as it was.
"""

from dataclasses import replace

from torch import Tensor

from gradleak.attacks.disturbance import undisturbed
from gradleak.attacks.head import find_head
from gradleak.attacks.labels.loss_form import find_loss_form
from gradleak.threat import Observation

# Rounding of 1 - p is this much larger than that of the other rows before it matters.
_WORTHWHILE = 1e-3


def confident_class(weight_gradient: Tensor, bias_gradient: Tensor, weight: Tensor, bias: Tensor) -> int:
    """The class of a single example, also where rounding left no negative residual: then the one predicted.

    Args:
        weight_gradient: `[C, D]`, of one example.
        bias_gradient: `[C]`, not all zero.
        weight: of the classifier, `[C, D]`.
        bias: of the classifier, `[C]`.

    Returns:
        The class index.
    """
    residual = bias_gradient.double()
    if bool((residual < 0).any()):
        return int(residual.argmin())
    largest = residual / residual.max()  # of 1e-20, say, whose square is zero
    features = weight_gradient.double().T @ largest / (largest.square().sum() * residual.max())
    return int((weight.double() @ features + bias.double()).argmax())


def restored(observation: Observation) -> Observation:
    """The observation with the true class's row of the classifier's gradient made from the other rows.

    Args:
        observation: what the attacker holds; it is not changed.

    Returns:
        Itself where the update is not the undefended gradient of one example under a softmax cross-entropy, or where
        that row kept its digits.
    """
    task, state, update = observation.task, observation.state, observation.update
    plain = observation.batch_size == 1 and update.kind == "gradient" and undisturbed(observation)
    head = find_head(task, state) if plain else None
    if head is None or head.bias is None or {head.weight, head.bias} - set(update.tensors):
        return observation
    rows, residual = update.tensors[head.weight], update.tensors[head.bias]
    if not float(residual.abs().max()) < _WORTHWHILE or not bool(residual.any()):
        return observation
    if isinstance(find_loss_form(task), str):
        return observation
    label = confident_class(rows, residual, state.parameters[head.weight], state.parameters[head.bias])
    tensors = dict(update.tensors)
    for name in (head.weight, head.bias):
        tensor = tensors[name].clone()
        tensor[label] = 0
        tensor[label] = -tensor.double().sum(dim=0).to(tensor.dtype)
        tensors[name] = tensor
    return replace(observation, update=replace(update, tensors=tensors))
