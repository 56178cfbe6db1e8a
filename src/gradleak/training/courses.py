"""How a model is trained: by a single worker, or by the clients of a federation."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from gradleak.audits.interrupts import Interrupts
from gradleak.defenses import ChangesBatch
from gradleak.seeds import stage_generator
from gradleak.training.defending import Defending, private_seed
from gradleak.training.memories import Memories
from gradleak.training.private import PrivateGradients, PrivateSettings, poisson_batch
from gradleak.training.sent import SentGradients
from gradleak.training.spec import Federation, TrainSpec
from gradleak.training.splitting import split_among_clients
from gradleak.training.steps import Backward, Examples, batches, batches_of, learning_rate, sgd, step

MODEL, MOMENTUM = "model/", "momentum/"
"""Prefixes of the names of tensors to go on from."""


class Course(Protocol):
    """A training that goes on unit by unit, and can stop and go on between any two.

    Attributes:
        model: as it is after `unit` units.
        word: what a unit is.
        total: units of the whole training.
        per_report: units between two looks at train and test accuracy.
        unit: how many are done.
    """

    model: nn.Module
    word: str
    total: int
    per_report: int
    unit: int

    def advance(self, interrupts: Interrupts) -> float:
        """Do one unit; its loss. An interrupt leaves the model as it was, or the unit done."""
        ...

    def epochs(self) -> float:
        """How often the training data have been seen on average."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all that the next units depend on."""
        ...

    def go_on(self, unit: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue as if `unit` units had been done that left these tensors."""
        ...


def course_of(
    spec: TrainSpec, examples: Examples, defending: Defending, private: PrivateSettings | None = None
) -> Course:
    """The training that a spec describes, at its start.

    Args:
        spec: checked.
        examples: that are trained on.
        defending: the defenses, bound to the task whose model is trained.
        private: noise and clipping of a differentially private training.

    Returns:
        The course.
    """
    if spec.federated is None:
        return SingleWorker(spec, defending.task.model, examples, defending, private)
    return Federated(spec, spec.federated, defending.task.model, examples, defending)


class SingleWorker:
    """SGD on shuffled epochs, or on Poisson-sampled batches with differential privacy; a unit is a step."""

    word = "step"

    def __init__(
        self,
        spec: TrainSpec,
        model: nn.Module,
        examples: Examples,
        defending: Defending | None = None,
        private: PrivateSettings | None = None,
    ) -> None:
        self.spec, self.model, self.examples = spec, model.train(), examples
        self.per_report = batches_of(len(examples.targets), spec.batch_size)
        self.total = (spec.epochs or 1) * self.per_report
        self.unit = 0
        self._sgd = sgd(model, spec.optimizer)
        self._epoch, self._order = -1, list[Tensor]()
        self._private, self._memories = private, Memories()
        self._backward = backward_of(spec, defending, private, self._memories)

    def advance(self, interrupts: Interrupts) -> float:
        """One step; its loss before the step."""
        lr = learning_rate(self.spec.optimizer, self.unit / self.total)
        batch = self.examples.at(self._positions())
        with interrupts.held_back():
            stage, seed = f"training/step/{self.unit}", self.spec.seed
            loss = step(self.model, self._sgd, lr, batch, self.spec.augmentation, seed, stage, self._backward)
            self.unit += 1
        return loss

    def _positions(self) -> Tensor:
        """Of the examples of the next step."""
        count = len(self.examples.targets)
        if self._private is not None:
            return poisson_batch(count, self._private.sampling_rate, self.spec.seed, self.unit)
        epoch, position = divmod(self.unit, self.per_report)
        if epoch != self._epoch:
            stage = f"training/order/{epoch}"
            self._epoch, self._order = epoch, list(batches(count, self.spec.batch_size, self.spec.seed, stage))
        return self._order[position]

    def epochs(self) -> float:
        """Passes over the data."""
        return self.unit / self.per_report

    def tensors(self) -> dict[str, Tensor]:
        """Model, momentum and what defenses remember."""
        found = {f"{MODEL}{name}": tensor.clone() for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            velocity = self._sgd.state[parameter].get("momentum_buffer") if parameter in self._sgd.state else None
            if velocity is not None:
                found[f"{MOMENTUM}{name}"] = velocity.clone()
        return found | self._memories.tensors()

    def go_on(self, unit: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue from there."""
        self.unit = unit
        load_state(self.model, tensors)
        for name, parameter in self.model.named_parameters():
            if f"{MOMENTUM}{name}" in tensors:
                self._sgd.state[parameter]["momentum_buffer"] = tensors[f"{MOMENTUM}{name}"].clone()
        self._memories.go_on(tensors)


class Federated:
    """Federated averaging; a unit is a round.

    McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS 2017,
    algorithm 1. Clients begin each round without momentum. The learning rate is the same within a round. Defenses of
    the update change what a client sends, the difference of its parameters; buffers are sent as they are.
    """

    word = "round"
    per_report = 1

    def __init__(
        self,
        spec: TrainSpec,
        federation: Federation,
        model: nn.Module,
        examples: Examples,
        defending: Defending | None = None,
    ) -> None:
        self.spec, self.federation, self.model = spec, federation, model.train()
        self.total = spec.rounds or 1
        self.unit = 0
        self.parts = split_among_clients(examples.targets, federation, spec.seed)
        self._examples = examples
        self._seen = 0
        self._defending = defending if defending is not None and defending.defenses else None
        self._memories = Memories()
        self._backward = backward_of(spec, _of_batches(defending), None, Memories())

    def advance(self, interrupts: Interrupts) -> float:
        """One round; the mean of the clients' mean losses, weighted by their examples."""
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        chosen = self.participants(self.unit)
        states: list[dict[str, Tensor]] = []
        losses: list[float] = []
        kept = self._memories.tensors()
        try:
            for client in chosen:
                self.model.load_state_dict(before)
                losses.append(self._client(client))
                after = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
                states.append(self._sent(before, after, client))
        except KeyboardInterrupt:
            self.model.load_state_dict(before)
            self._memories.go_on(kept)
            raise
        counts = [len(self.parts[client]) for client in chosen]
        with interrupts.held_back():
            self.model.load_state_dict(weighted_mean(states, counts))
            self._seen += sum(counts) * self.federation.local_epochs
            self.unit += 1
        return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)

    def participants(self, number: int) -> list[int]:
        """The clients of a round, in ascending order."""
        count = max(1, round(self.federation.participation * self.federation.clients))
        generator = stage_generator(self.spec.seed, f"training/participants/{number}")
        return torch.randperm(self.federation.clients, generator=generator)[:count].sort().values.tolist()

    def _sent(self, before: Mapping[str, Tensor], after: dict[str, Tensor], client: int) -> dict[str, Tensor]:
        """The client's model as the server learns of it."""
        if self._defending is None:
            return after
        self.model.load_state_dict(before)
        examples = self._examples.at(self.parts[client])
        step_of = self._defending.step_of(examples.inputs, examples.targets)
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        delta = {name: after[name] - before[name] for name in names}
        seed = private_seed(self.spec.seed, f"training/round/{self.unit}", client)
        sent = self._memories.sent(self._defending, delta, "delta", step_of, seed, client)
        return after | {name: before[name] + tensor for name, tensor in sent.items()}

    def _client(self, client: int) -> float:
        examples = self._examples.at(self.parts[client])
        own = sgd(self.model, self.spec.optimizer)
        lr = learning_rate(self.spec.optimizer, self.unit / self.total)
        losses: list[float] = []
        for epoch in range(self.federation.local_epochs):
            stage = f"training/round/{self.unit}/{client}/{epoch}"
            order = batches(len(examples.targets), self.spec.batch_size, self.spec.seed, stage)
            for position, batch in enumerate(order):
                losses.append(
                    step(
                        self.model,
                        own,
                        lr,
                        examples.at(batch),
                        self.spec.augmentation,
                        self.spec.seed,
                        f"{stage}/{position}",
                        self._backward,
                    )
                )
        return sum(losses) / len(losses)

    def epochs(self) -> float:
        """Passes over all training data together."""
        return self._seen / len(self._examples.targets)

    def tensors(self) -> dict[str, Tensor]:
        """The model, and what the defenses of clients remember; they keep nothing else."""
        model = {f"{MODEL}{name}": tensor.clone() for name, tensor in self.model.state_dict().items()}
        return model | self._memories.tensors()

    def go_on(self, unit: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue from there."""
        self.unit = unit
        self._seen = self.federation.local_epochs * sum(
            len(self.parts[client]) for number in range(unit) for client in self.participants(number)
        )
        load_state(self.model, tensors)
        self._memories.go_on(tensors)


def backward_of(
    spec: TrainSpec, defending: Defending | None, private: PrivateSettings | None, memories: Memories
) -> Backward | None:
    """How a step gets its gradients.

    Args:
        spec: checked.
        defending: the defenses, bound to the task; None for none.
        private: noise and clipping of a differentially private training.
        memories: what defenses keep from step to step.

    Returns:
        The backward pass; None for a plain one.
    """
    if defending is None:
        return None
    if private is not None:
        return PrivateGradients(defending, private, spec.seed, spec.autocast, memories)
    if defending.defenses or spec.workers > 1 or spec.autocast is not None:
        return SentGradients(defending, spec.workers, spec.seed, spec.autocast, memories)
    return None


def _of_batches(defending: Defending | None) -> Defending | None:
    """The defenses that act in each local step, and not on what is sent after the last one."""
    if defending is None:
        return None
    return Defending(tuple(entry for entry in defending.defenses if isinstance(entry, ChangesBatch)), defending.task)


def weighted_mean(states: Sequence[Mapping[str, Tensor]], counts: Sequence[int]) -> dict[str, Tensor]:
    """The mean of models, weighted by numbers of examples; integer counters stay integers.

    Args:
        states: parameters and buffers of each.
        counts: examples of each, at least 1.

    Returns:
        Parameters and buffers in their own types; integers are rounded.
    """
    total = sum(counts)
    found: dict[str, Tensor] = {}
    for name, first in states[0].items():
        mean = torch.zeros(first.shape, dtype=torch.float64)
        for state, count in zip(states, counts, strict=True):
            # In double precision, so that equal models give that very model.
            mean += state[name].double() * (count / total)
        found[name] = (mean if first.is_floating_point() else mean.round()).to(first.dtype)
    return found


def load_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved parameters and buffers in place."""
    model.load_state_dict({name.removeprefix(MODEL): tensors[name] for name in tensors if name.startswith(MODEL)})
