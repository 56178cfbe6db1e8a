"""Where a client's own computation overflowed, so that there is no update."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gradleak.clients.aggregate import Aggregate
from gradleak.clients.local_training import LocalTraining
from gradleak.clients.protocol import Client
from gradleak.tasks import Task


def divergence(
    client: Client, task: Task, variable: Tensor, target_probabilities: Tensor, sent: Mapping[str, Tensor]
) -> list[str]:
    """What is wrong with an update that holds NaN or infinity.

    Args:
        client: which made it, with its order where it has one.
        task: what it trained.
        variable: its private examples, `[N, *variable_shape]`.
        target_probabilities: `[N, C]`.
        sent: what it made, by name.

    Returns:
        One line; none if everything is finite.
    """
    bad = [name for name, tensor in sent.items() if not bool(torch.isfinite(tensor).all())]
    if not bad:
        return []
    what = f"NaN or infinity in {len(bad)} of {len(sent)} tensors ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)})"
    member = _first_diverging(client, task, variable, target_probabilities) if isinstance(client, Aggregate) else None
    if member is not None:
        position, client, variable, target_probabilities = member
        what += f", from client {position} of the aggregate"
    if isinstance(client, LocalTraining):
        step = _diverging_step(client, task, variable, target_probabilities)
        where = "" if step is None else f" at local step {step} of {client.steps(len(variable))}"
        return [
            f"client.lr: expected local training that stays finite, got {what}: the client's own training "
            f"diverged{where}; lower lr (now {client.lr:g}), or check the model's weights and the inputs"
        ]
    advice = "check the model's weights and the inputs"
    if getattr(client, "autocast", None) == "fp16":
        advice = f"lower loss_scale (now {getattr(client, 'loss_scale', 1.0):g}), use autocast='bf16', or {advice}"
    return [f"client: expected a finite gradient, got {what}: the client's own step overflowed; {advice}"]


def _diverging_step(client: LocalTraining, task: Task, variable: Tensor, target_probabilities: Tensor) -> int | None:
    """The first local step after which something is not finite; None if that depends on masks of dropout."""
    chosen = [list(positions) for epoch in client.schedule(len(variable)) for positions in epoch]
    train = client.bind_steps(task, task.state())
    low, high = 0, len(chosen)

    def diverges(count: int) -> bool:
        made = train([(variable[positions], target_probabilities[positions]) for positions in chosen[:count]])
        return not all(bool(torch.isfinite(tensor).all()) for tensor in made.values())

    if not diverges(high):
        return None
    while high - low > 1:  # what has diverged stays so
        middle = (low + high) // 2
        low, high = (low, middle) if diverges(middle) else (middle, high)
    return high


def _first_diverging(
    client: Aggregate, task: Task, variable: Tensor, target_probabilities: Tensor
) -> tuple[int, Client, Tensor, Tensor] | None:
    """Position, client and examples of the first member whose own update is not finite."""
    for position, (member, part) in enumerate(zip(client.members, client.parts(len(variable)), strict=True)):
        chosen = slice(part.start, part.stop)
        made = member.bind(task, task.state())(variable[chosen], target_probabilities[chosen])
        if not all(bool(torch.isfinite(tensor).all()) for tensor in made.values()):
            return position, member, variable[chosen], target_probabilities[chosen]
    return None
