"""Updates that are one gradient in disguise: a single local step, or the mean over clients that each take one.

Everything that is known about gradients holds for them too, once sign, scale and weight decay are taken off.
"""

from dataclasses import replace

import torch

from gradleak.attacks.closed_form.single import single_example
from gradleak.attacks.defended.clipped import clipping
from gradleak.attacks.defended.rescaling import rescaled
from gradleak.attacks.head import find_head
from gradleak.attacks.labels.loss_form import find_loss_form
from gradleak.clients import DPSGD, Aggregate, Client, Gradient, LocalSGD
from gradleak.clients.gradient import gradient_like
from gradleak.clients.settings import StepSettings
from gradleak.tasks import ModelState, Task
from gradleak.threat import Observation
from gradleak.updates import Update, difference_rounding

# The last layer's residual must be that of a softmax up to a scale, to this many times the update's rounding.
_SLACK = 1e4


def as_gradient(observation: Observation) -> Observation | str:
    """The observation as one of `clients.Gradient` over the whole private batch, where it is exactly that.

    - `LocalSGD` of one step: `-delta / lr`, less weight decay; Nesterov's momentum scales it.
    - `Aggregate` of clients that each send one gradient, counted in proportion to their examples: the gradient of all
      examples together, unless BatchNorm sees each client's batch alone.
    - `DPSGD` without noise of one example. If its gradient was clipped, the last layer tells by how much: its bias's
      gradient is a multiple of `softmax(z) - y`, and the logits z follow from the layer's input, which needs no scale.
    - A gradient of one example that a known defense clipped as a whole: the same.

    Args:
        observation: what the attacker holds; it is not changed.

    Returns:
        The observation itself if its client sends gradients; one that is equivalent; or why there is none.
    """
    client = observation.client
    if client is None:
        kind = observation.update.kind
        return observation if kind == "gradient" else "a weight delta of an unknown client need not be one gradient"
    if isinstance(client, Gradient) and client.micro_batch is None:
        return _unclipped(observation)
    count = observation.batch_size
    reduced = _reduced(client, observation.task, count)
    if isinstance(reduced, str):
        return reduced
    defenses = observation.defenses
    if defenses and (reduced.scale != 1 or reduced.decay):
        # What acts on the update as it was sent has to say what it is in the gradient's units.
        defenses = None if reduced.decay else rescaled(defenses, 1 / reduced.scale)
        if defenses is None:
            return "the defense acts on the update as it was sent, which the gradient's scale would change"
    if isinstance(client, DPSGD) and _clipped(client, observation.update):
        scale = None if observation.defenses else _clipping(observation)
        if scale is None:
            return "the example's gradient was clipped, and the last layer does not tell by how much"
        reduced = _Reduced(reduced.client, scale)
    return replace(
        observation,
        client=reduced.client,
        defenses=defenses,
        update=_rescaled(observation.update, observation.state, reduced.scale, reduced.decay),
        threat=replace(observation.threat, order_known=False),
    )


def _unclipped(observation: Observation) -> Observation:
    """The gradient before a clipping that did nothing, or whose factor the last layer tells; else as it is."""
    if observation.defenses is None or len(observation.defenses) != 1:
        return observation
    found = clipping(observation.defenses[0], observation.update)
    if found == "inactive":
        return replace(observation, defenses=())
    scale = _clipping(observation) if found == "active" and observation.batch_size == 1 else None
    if scale is None:
        return observation
    return replace(observation, update=_rescaled(observation.update, observation.state, scale, 0.0), defenses=())


class _Reduced:
    """A client that sends `scale * (gradient + decay * weights)` of the client `client`."""

    def __init__(self, client: Gradient, scale: float, decay: float = 0.0) -> None:
        self.client, self.scale, self.decay = client, scale, decay


def _reduced(client: Client, task: Task, count: int | None) -> _Reduced | str:
    if isinstance(client, Gradient):
        coupled = client.micro_batch is not None and _couples(client, task)
        return "BatchNorm sees micro-batches alone" if coupled else _Reduced(_plain(client), 1.0)
    if isinstance(client, LocalSGD):
        if client.epochs > 1 or (count is None and client.batch_size is not None):
            return "the client takes more than one local step"
        if count is not None and client.steps(count) > 1:
            return f"the client takes {client.steps(count)} local steps"
        coupled = client.micro_batch is not None and _couples(client, task)
        boost = 1 + client.momentum if client.nesterov else 1.0
        return (
            "BatchNorm sees micro-batches alone"
            if coupled
            else _Reduced(_plain(client), -client.lr * boost, client.weight_decay)
        )
    if isinstance(client, Aggregate):
        return _mean(client, task, count)
    if isinstance(client, DPSGD) and client.noise_multiplier == 0 and count == 1:
        scale = 1 / client.expected_batch_size if client.expected_batch_size else 1.0
        return _Reduced(_plain(client), scale)
    return f"the update of {type(client).__name__} is not one gradient"


def _mean(client: Aggregate, task: Task, count: int | None) -> _Reduced | str:
    """The mean of gradients of parts is the gradient of the whole if every example counts alike."""
    if count is None:
        return "the sizes of the clients' batches are unknown"
    if any(isinstance(member, DPSGD) for member in client.members):
        return "each client may have clipped its gradient by a factor of its own"
    parts = client.parts(count)
    found = [_reduced(member, task, len(part)) for member, part in zip(client.members, parts, strict=True)]
    for one in found:
        if isinstance(one, str):
            return one
    same = [one for one in found if isinstance(one, _Reduced)]
    first = same[0]
    if any((one.client, one.scale, one.decay) != (first.client, first.scale, first.decay) for one in same):
        return "the clients differ in their settings"
    if any(abs(share - len(part) / count) > 1e-12 for share, part in zip(client.shares(count), parts, strict=True)):
        return "the clients count alike but have different numbers of examples"
    if len(parts) > 1 and _couples(first.client, task):
        return "BatchNorm sees each client's batch alone"
    return first


def _plain(client: StepSettings) -> Gradient:
    """The gradient client with the same step, all examples at once."""
    return replace(gradient_like(client), micro_batch=None)


def _couples(client: StepSettings, task: Task) -> bool:
    """Whether the examples of a batch influence each other's outputs."""
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    return client.mode == "train" and any(isinstance(layer, norms) for layer in task.model.modules())


def _clipped(client: DPSGD, update: Update) -> bool:
    """Whether a single example's update has the largest norm that clipping leaves."""
    norm = update.squared_norm() ** 0.5 * (client.expected_batch_size or 1)
    return norm > client.clip * (1 - 1e-4)


def _clipping(observation: Observation) -> float | None:
    """The factor before a single example's gradient; None where the last layer does not tell."""
    task, state, update = observation.task, observation.state, observation.update.tensors
    head, form = find_head(task, state), find_loss_form(task)
    if head is None or head.bias is None or isinstance(form, str) or not form.is_plain:
        return None
    if not bool(update[head.bias].any()):
        return None
    example = single_example(update[head.weight], update[head.bias])
    logits = state.parameters[head.weight].double() @ example.features + state.parameters[head.bias].double()
    if observation.targets is not None:
        target = task.target_probabilities(observation.targets)[0].double()
    else:
        target = torch.nn.functional.one_hot(example.residual.argmin(), task.num_classes).double()
    residual = torch.softmax(logits, dim=0) - target
    power = float(residual.square().sum())
    scale = float(example.residual.dot(residual)) / power if power > 0 else 0.0
    misfit = float((example.residual - scale * residual).norm() / example.residual.norm())
    return scale if scale > 0 and misfit <= _SLACK * observation.update.rounding else None


def _rescaled(update: Update, state: ModelState, scale: float, decay: float) -> Update:
    """The gradient `update / scale - decay * weights`, and how coarse the subtraction of weights left it."""
    if scale == 1 and decay == 0:
        return replace(update, kind="gradient")
    tensors = {
        name: tensor / scale - decay * state.parameters[name] if decay else tensor / scale
        for name, tensor in update.tensors.items()
    }
    coarseness = update.coarseness
    if update.kind == "delta":
        # Weight decay is known exactly, and leaves less than was sent.
        moved = {name: tensor * scale for name, tensor in tensors.items()}
        coarseness = max(coarseness, difference_rounding(moved, state.parameters))
    return Update(tensors, "gradient", update.buffers, coarseness)
