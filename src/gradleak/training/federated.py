"""Training by the clients of a federation."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gradleak.audits.interrupts import Interrupts
from gradleak.seeds import stage_generator
from gradleak.training.backward import backward_of, of_batches
from gradleak.training.defending import Defending, private_seed
from gradleak.training.memories import Memories
from gradleak.training.places import MODEL, load_state
from gradleak.training.spec import Federation, TrainSpec
from gradleak.training.splitting import split_among_clients
from gradleak.training.steps import Examples, batches, learning_rate, sgd, step


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
        self._backward = backward_of(spec, of_batches(defending), None, Memories())

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
