"""What a server sees under secure aggregation: the mean of several clients' updates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from gradleak.clients.protocol import ChecksBatch, Client, DrawsOrder, Simulate
from gradleak.tasks import ModelState, Task
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class Aggregate:
    """The mean of the updates of several clients, each with its own part of the private batch.

    The batch is cut into consecutive parts, one for each client, as equal as possible (the first ones larger) unless
    `sizes` says otherwise.

    Args:
        clients: one or more clients, all of the same kind of update.
        count: how many clients each entry of `clients` stands for; `Aggregate([c], count=8)` are eight alike.
        sizes: examples of each client; None for equal parts.
        weighting: `"clients"`: every client counts alike; `"examples"`: in proportion to its examples, as federated
            averaging does (McMahan et al. 2017). The two agree for equal parts.
    """

    clients: Sequence[Client]
    count: int = 1
    sizes: tuple[int, ...] | None = None
    weighting: Literal["clients", "examples"] = "clients"

    # Clients are whatever fits the protocol; files are read by their names, see `components.from_plain`.
    __pydantic_config__: ClassVar = {"arbitrary_types_allowed": True}

    def __post_init__(self) -> None:
        object.__setattr__(self, "clients", tuple(self.clients))
        if self.sizes is not None:
            object.__setattr__(self, "sizes", tuple(self.sizes))

    @property
    def members(self) -> tuple[Client, ...]:
        """Every client, in the order of the parts."""
        return tuple(client for client in self.clients for _ in range(self.count))

    @property
    def kind(self) -> UpdateKind:
        """The kind that all clients send."""
        return self.clients[0].kind if self.clients else "gradient"

    @property
    def send_buffers(self) -> bool:
        """Whether the clients send buffers; their mean is what is seen then."""
        return any(getattr(client, "send_buffers", False) for client in self.clients)

    @property
    def sent(self) -> tuple[str, ...] | None:
        """The patterns of what is sent, which are those of every client."""
        return getattr(self.clients[0], "sent", None) if self.clients else None

    def problems(self, task: Task) -> list[str]:
        """No clients, clients of different kinds, and what is wrong with each of them."""
        problems: list[str] = []
        if not self.clients:
            problems.append("client.clients: expected at least one client, got none; give what is aggregated")
        if self.count < 1:
            problems.append(f"client.count: expected at least 1, got {self.count}; 1 takes the clients as they are")
        if self.weighting not in {"clients", "examples"}:
            problems.append(f"client.weighting: expected 'clients' or 'examples', got {self.weighting!r}; choose one")
        for what in ("kind", "sent", "send_buffers"):
            found = {getattr(client, what, None) for client in self.clients}
            if len(found) > 1:
                problems.append(f"client.clients: expected the same {what} of all, got {found}; aggregate like to like")
        if self.sizes is not None and (len(self.sizes) != len(self.members) or min(self.sizes, default=0) < 1):
            problems.append(
                f"client.sizes: expected {len(self.members)} numbers of at least 1, one for each client, got "
                f"{list(self.sizes)}; None makes equal parts"
            )
        for position, client in enumerate(self.clients):
            problems += [
                problem.replace("client.", f"client.clients.{position}.", 1) for problem in client.problems(task)
            ]
        return problems

    def batch_problems(self, count: int) -> list[str]:
        """What keeps these clients from sharing `count` examples, one line each."""
        if self.sizes is not None and sum(self.sizes) != count:
            return [f"client.sizes: expected a sum of {count} examples, got {sum(self.sizes)}; correct one of them"]
        if count < len(self.members):
            return [
                f"client.clients: expected at most {count} clients for {count} examples, got {len(self.members)}; "
                "raise the batch size, which counts the examples of all of them"
            ]
        problems: list[str] = []
        for member, part in zip(self.members, self.parts(count), strict=True):
            problems += member.batch_problems(len(part)) if isinstance(member, ChecksBatch) else []
        return problems

    def parts(self, count: int) -> list[range]:
        """Positions of each client's examples among `count`."""
        whole, rest = divmod(count, len(self.members))
        sizes = self.sizes or [whole + (member < rest) for member in range(len(self.members))]
        ends = [sum(sizes[: member + 1]) for member in range(len(sizes))]
        return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def shares(self, count: int) -> list[float]:
        """What each client counts in the mean of an aggregate of `count` examples; the sum is 1."""
        if self.weighting == "clients":
            return [1 / len(self.members)] * len(self.members)
        return [len(part) / count for part in self.parts(count)]

    def with_order(self, count: int, generator: torch.Generator) -> Self:
        """The aggregate in which every client has the order that it draws as a setting."""
        drawn = [
            member.with_order(len(part), generator) if isinstance(member, DrawsOrder) else member
            for member, part in zip(self.members, self.parts(count), strict=True)
        ]
        return replace(self, clients=tuple(drawn), count=1)

    def bind(self, task: Task, state: ModelState, generator: torch.Generator | None = None) -> Simulate:
        """Every client's step as one function of the whole batch; see `Client.bind`."""
        steps = [member.bind(task, state, generator) for member in self.members]

        def simulate(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            count = len(variable)
            total: dict[str, Tensor] = {}
            parts, shares = self.parts(count), self.shares(count)
            for step, part, share in zip(steps, parts, shares, strict=True):
                chosen = slice(part.start, part.stop)
                for name, tensor in step(variable[chosen], target_probabilities[chosen]).items():
                    if not tensor.is_floating_point():  # counters of batches agree, and have no mean
                        total[name] = tensor
                    else:
                        total[name] = total[name] + share * tensor if name in total else share * tensor
            return total

        return simulate
