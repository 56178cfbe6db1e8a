"""Clients whose update is, by their settings, that of one gradient of the mean loss: closed forms apply to that."""

import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from gradleak.attacks.closed_form.single import single_example
from gradleak.attacks.disturbance import undisturbed
from gradleak.attacks.head import find_head
from gradleak.attacks.labels.loss_form import find_loss_form
from gradleak.clients import DPSGD, Aggregate, Client, Gradient, LocalSGD
from gradleak.clients.settings import StepSettings, stateful_layers
from gradleak.threat import Observation
from gradleak.updates import Update

# The residual of the last layer must be that of a softmax up to a scale, to about the rounding of the update.
_SLACK = 1e4


def one_gradient(observation: Observation) -> tuple[Observation, str] | None:
    """The observation as that of a client that sends one gradient, where the settings make it the same.

    One step of SGD is undone by its learning rate. An aggregate of clients alike, weighed by their examples, is the
    gradient of all their examples together. The clipping of DP-SGD on one example without noise is a scale, which the
    last layer gives: its bias's gradient is a multiple of `softmax(z) - y`, and the logits z follow from the features.

    Args:
        observation: what the attacker holds, with client and batch size; it is not changed.

    Returns:
        The new observation and one clause that says why; None where there is no such gradient, where it is one
        already, or where defenses changed the update on its way.
    """
    client, count = observation.client, observation.batch_size
    if client is None or count is None or isinstance(client, Gradient) or not undisturbed(observation):
        return None
    reasons: list[str] = []
    if isinstance(client, Aggregate):
        joined = _joined(client, count, observation)
        if joined is None:
            return None
        client = joined
        reasons.append(f"an aggregate of {len(observation.client.members)} clients alike is one of all examples")  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]  # as asked above
    if isinstance(client, LocalSGD):
        if client.steps(count) != 1:
            return None
        tensors = _one_step_undone(client, observation)
        reasons.append("one local step of SGD is a gradient times the learning rate")
    elif isinstance(client, DPSGD):
        scale = _clipping(observation) if count == 1 else None
        if scale is None:
            return None
        tensors = {name: tensor / scale for name, tensor in observation.update.tensors.items()}
        reasons.append(f"one clipped gradient without noise is a gradient times {scale:.2g}, as the last layer tells")
    elif isinstance(client, Gradient):
        tensors = dict(observation.update.tensors)
    else:
        return None
    update = Update(tensors, "gradient", observation.update.buffers)
    return replace(observation, update=update, client=_as_gradient(client)), "; ".join(reasons)


def _as_gradient(client: StepSettings) -> Gradient:
    return Gradient(**{field.name: getattr(client, field.name) for field in fields(StepSettings)})


def _joined(client: Aggregate, count: int, observation: Observation) -> Client | None:
    """The one client whose update on all examples is the aggregate's."""
    member, sizes = client.members[0], [len(part) for part in client.parts(count)]
    if any(other != member for other in client.members) or not isinstance(member, Gradient | LocalSGD):
        return None
    by_examples = all(
        math.isclose(share * count, size) for share, size in zip(client.shares(count), sizes, strict=True)
    )
    if not by_examples:
        return None
    settings: dict[str, Any] = {"micro_batch": None}
    if member.mode == "train" and stateful_layers(observation.task.model):
        # Batch statistics are those of each client; buffers after the step are a mean that no single client has.
        if len(set(sizes)) > 1 or member.send_buffers or member.micro_batch is not None:
            return None
        settings["micro_batch"] = sizes[0]
    if isinstance(member, LocalSGD):
        if any(member.steps(size) != 1 for size in sizes):
            return None
        settings |= {"batch_size": None, "order": None}
    return replace(member, **settings)


def _one_step_undone(client: LocalSGD, observation: Observation) -> dict[str, Tensor]:
    """The gradient behind one step: without the learning rate, Nesterov's factor and weight decay."""
    factor = -client.lr * (1 + client.momentum if client.nesterov else 1)
    return {
        name: tensor / factor - client.weight_decay * observation.state.parameters[name].to(tensor)
        for name, tensor in observation.update.tensors.items()
    }


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
    return scale if scale > 0 and misfit <= _SLACK * torch.finfo(update[head.bias].dtype).eps else None
