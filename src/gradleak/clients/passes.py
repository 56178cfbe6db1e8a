"""Which batches go through the model in training mode, and whether BatchNorm can normalize each of them."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the only common base class

from gradleak.clients.aggregate import Aggregate
from gradleak.clients.local_training import LocalTraining
from gradleak.clients.settings import StepSettings
from gradleak.tasks import Task


def passes(client: object, count: int) -> list[list[int]] | None:
    """Sizes of the batches that pass through the model, in order, for each participant.

    Args:
        client: any client.
        count: private examples.

    Returns:
        One list for each member of an aggregate, else a single one; None for a client whose steps are not known.
    """
    if isinstance(client, Aggregate):
        found = [passes(member, len(part)) for member, part in zip(client.members, client.parts(count), strict=True)]
        return None if None in found else [sizes for member in found for sizes in member or ()]
    if not isinstance(client, StepSettings):
        return None
    steps = [count]
    if isinstance(client, LocalTraining):
        steps = [len(positions) for epoch in client.schedule(count) for positions in epoch]
    size = client.micro_batch
    return [[min(size or step, step - first) for step in steps for first in range(0, step, size or step)]]


def values_per_channel(task: Task) -> dict[str, list[int]]:
    """What one example gives to the statistics of each BatchNorm layer.

    Args:
        task: the public task, whose model runs once on zeros.

    Returns:
        For every layer, by name, the positions of the map that enters, one number for each use of the layer.
    """
    module = copy.deepcopy(task.model).eval()
    found: dict[str, list[int]] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.setdefault(name, []).append(inputs[0].numel() // (len(inputs[0]) * inputs[0].shape[1]))

        return record

    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            layer.register_forward_pre_hook(recorder(name))
    if not any(isinstance(layer, _BatchNorm) for layer in module.modules()):
        return {}
    with torch.no_grad():
        zeros = torch.zeros((1, *task.space.variable_shape), dtype=task.dtype, device=task.device)
        task.space.forward(module, {}, zeros)
    return found


def statistics_problems(client: object, task: Task, count: int) -> list[str]:
    """Batches of which BatchNorm in training mode would see a single value a channel, which has no variance.

    Args:
        client: any client.
        task: the public task.
        count: private examples.

    Returns:
        At most one line.
    """
    members = client.members if isinstance(client, Aggregate) else (client,)
    if not any(getattr(member, "mode", "eval") == "train" for member in members):
        return []
    smallest = min((min(sizes) for sizes in passes(client, count) or () if sizes), default=0)
    single = [name for name, positions in values_per_channel(task).items() if min(positions) * smallest == 1]
    if not single:
        return []
    return [
        f"client.mode: expected at least two values a channel for BatchNorm in training mode, got one at "
        f"{', '.join(single[:3])}, since a batch of {smallest} passes alone; raise the batch size or micro_batch, or "
        "use mode='eval'"
    ]
