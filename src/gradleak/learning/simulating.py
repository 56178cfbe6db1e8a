"""The defended updates of many single examples, fast: all client steps at once where the client allows it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from gradleak.captures import capture
from gradleak.clients import Client
from gradleak.clients.settings import sent_state
from gradleak.defenses import ChangesBatch, Defense, PrivateStep
from gradleak.defenses.applying import changed_task, defended
from gradleak.errors import BadInput
from gradleak.tasks import Task
from gradleak.updates import UpdateKind

_AGREE = 1e-3
"""Relative difference up to which a batched step counts as the same; rounding differs with the order of sums."""

_PROBED = 3


class Simulator:
    """Makes updates as `capture` does, one for each example.

    Attributes:
        task: with those defenses built in that are a part of the model.
        batched: whether all client steps are made at once.
        together: whether all defenses are applied at once.
        repeats: whether the same example always gives the same update.
    """

    def __init__(self, task: Task, client: Client, defenses: Sequence[Defense], inputs: Tensor, targets: Tensor):
        """Try the client on a few examples.

        Args:
            task: the public task.
            client: makes the updates.
            defenses: in order.
            inputs: a few examples `[n, ...]`.
            targets: their classes `[n]`.

        Raises:
            BadInput: when task, client and defenses do not fit.
        """
        self.client, self.defenses, self._given = client, tuple(defenses), task
        inputs, targets = inputs[:_PROBED], targets[:_PROBED]
        first, again = self._alone(inputs, targets, 0), self._alone(inputs, targets, 1000)
        self.task = changed_task(defenses, task)
        self.state = sent_state(client, self.task.state())
        self.repeats = torch.equal(first, again)
        self.batched = self._can_batch(inputs, targets)
        self.together = self.batched and self._can_defend_together(inputs, targets)

    def updates(self, inputs: Tensor, targets: Tensor, seed: int) -> Tensor:
        """The defended updates, one in a row.

        Args:
            inputs: `[n, ...]` in the input space's own units.
            targets: classes `[n]`.
            seed: of the first example's randomness; the next ones have the next seeds.

        Returns:
            `[n, P]` float32, in the order of the model's parameters.
        """
        if not self.batched:
            return self._alone(inputs, targets, seed)
        plain = self._steps(inputs, targets)
        if not self.defenses:
            return _rows(plain)
        if self.together:
            return _rows(vmap(self._deterministic)(plain))
        return torch.stack(
            [
                _row(
                    defended(self.defenses, one, self.kind, step=self._step(inputs, targets, place), seed=seed + place)
                )
                for place, one in enumerate(_unstacked(plain, len(inputs)))
            ]
        )

    @property
    def kind(self) -> UpdateKind:
        """What the client sends."""
        return self.client.kind

    def _alone(self, inputs: Tensor, targets: Tensor, seed: int) -> Tensor:
        """One capture for each example."""
        rows: list[Tensor] = []
        for place in range(len(inputs)):
            one = slice(place, place + 1)
            seen, _ = capture(
                self._given,
                inputs[one],
                targets[one],
                client=self.client,
                defenses=self.defenses,
                seed=seed + place,
            )
            rows.append(_row(seen.update.tensors))
        return torch.stack(rows)

    def _steps(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Undefended updates by name, stacked."""
        simulate = self.client.bind(self.task, self.state)

        def one(variable: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
            sent = simulate(variable[None], probabilities[None])
            return {name: sent[name] for name in self.state.parameters}

        with torch.no_grad():
            stacked = vmap(one)(self.task.encode(inputs), self.task.target_probabilities(targets))
        return {name: tensor.detach() for name, tensor in stacked.items()}

    def _can_batch(self, inputs: Tensor, targets: Tensor) -> bool:
        """Whether the client draws nothing, no defense changes the batch, and vmap gives what single steps give."""
        if any(isinstance(defense, ChangesBatch) for defense in self.defenses):
            return False
        plain = Simulator.__new__(Simulator)
        plain.client, plain.defenses, plain._given = self.client, (), self.task
        single = plain._alone(inputs, targets, 0)
        if not torch.equal(single, plain._alone(inputs, targets, 1000)):
            return False
        try:
            batched = _rows(self._steps(inputs, targets))
        # Whatever vmap cannot do with a foreign model, single steps can.
        except Exception:  # noqa: BLE001
            return False
        return bool(((batched - single).norm(dim=1) <= _AGREE * single.norm(dim=1)).all())

    def _can_defend_together(self, inputs: Tensor, targets: Tensor) -> bool:
        """Whether the defenses draw nothing, look at nothing but the update, and vmap through."""
        if not self.repeats:
            return False
        stacked = self._steps(inputs, targets)
        try:
            together = _rows(vmap(self._deterministic)(stacked))
        # In-place writes and data-dependent shapes fail under vmap, each in its own way.
        except Exception:  # noqa: BLE001
            return False
        alone = [
            _row(defended(self.defenses, one, self.kind, step=self._step(inputs, targets, place), seed=place))
            for place, one in enumerate(_unstacked(stacked, len(inputs)))
        ]
        return torch.equal(together, torch.stack(alone))

    def _deterministic(self, update: dict[str, Tensor]) -> dict[str, Tensor]:
        return defended(self.defenses, update, self.kind)

    def _step(self, inputs: Tensor, targets: Tensor, place: int) -> PrivateStep:
        one = slice(place, place + 1)
        return PrivateStep(
            self.task, self.state, self.task.encode(inputs[one]), self.task.target_probabilities(targets[one])
        )


def simulator(task: Task, client: Client, defenses: Sequence[Defense], inputs: Tensor, targets: Tensor) -> Simulator:
    """A simulator, see `Simulator`.

    Returns:
        A simulator that was tried on the first examples.

    Raises:
        BadInput: when the update has no entry to learn from.
    """
    made = Simulator(task, client, defenses, inputs, targets)
    if not bool(made.updates(inputs[:1], targets[:1], 0).any()):
        raise BadInput(
            ["update: expected an entry other than zero, got none; choose a weaker defense or another model"]
        )
    return made


def _rows(stacked: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().cpu().float().flatten(1) for tensor in stacked.values()], dim=1)


def _row(update: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().cpu().float().flatten() for tensor in update.values()])


def _unstacked(stacked: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    return [{name: tensor[place] for name, tensor in stacked.items()} for place in range(count)]
