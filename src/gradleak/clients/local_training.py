"""Local training: many steps of an optimizer on the private data, of which only the change of the weights is sent.

The steps are one differentiable function, so that an attacker simulates them through. An optimizer adds its rule of one
step, in a file of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gradleak.clients.protocol import Simulate
from gradleak.clients.settings import StepSettings, sent_names
from gradleak.clients.step import BoundStep, bound_step
from gradleak.seeds import stage_generator
from gradleak.tasks import ModelState, Task
from gradleak.updates import UpdateKind

Named = Mapping[str, Tensor]
Memory = Mapping[str, Named]
"""What an optimizer remembers from step to step: by kind, then by parameter name; empty before the first step."""

Batch = tuple[Tensor, Tensor]
"""Variable `[B, *variable_shape]` and target probabilities `[B, C]` of one local step."""

Order = tuple[tuple[int, ...], ...]
"""For each epoch, the positions of all examples in the order in which they are gone through."""


@dataclass(frozen=True, kw_only=True)
class LocalTraining(StepSettings, ABC):
    """A client that trains on its private data for several steps and sends `w_after - w_before` (McMahan et al. 2017).

    Args:
        lr: learning rate, above 0.
        epochs: passes over the private data.
        batch_size: examples of one local step; None for all at once. The last batch of an epoch may be smaller.
        shuffle: go through the data in a new random order in each epoch. Nobody else knows it unless the threat model
            says so.
        order: the order of each epoch, where it is fixed and known; None for the order in which the examples are
            given, or a random one with `shuffle`.
    """

    lr: float
    epochs: int = 1
    batch_size: int | None = None
    shuffle: bool = True
    order: Order | None = None

    @abstractmethod
    def rule(self, parameters: Named, gradients: Named, memory: Memory, step: int) -> tuple[dict[str, Tensor], Memory]:
        """Local step 1, 2, ... of the optimizer.

        Args:
            parameters: before the step, by name.
            gradients: at them, by name.
            memory: what the optimizer remembers; empty at step 1.
            step: its number, from 1.

        Returns:
            The parameters after the step, and the new memory; new tensors, differentiable by everything given.
        """

    @property
    def kind(self) -> UpdateKind:
        """A weight delta."""
        return "delta"

    def problems(self, task: Task) -> list[str]:
        """Settings outside their range or against each other, one line each."""
        problems = super().problems(task)
        if not 0 < self.lr < float("inf"):
            problems.append(f"client.lr: expected a finite number above 0, got {self.lr}; give the local learning rate")
        if self.epochs < 1:
            problems.append(f"client.epochs: expected at least 1, got {self.epochs}; one epoch passes everything once")
        if self.batch_size is not None and self.batch_size < 1:
            problems.append(f"client.batch_size: expected at least 1, got {self.batch_size}; None takes all at once")
        return problems + self._order_problems()

    def _order_problems(self) -> list[str]:
        if self.order is None:
            return []
        if len(self.order) != self.epochs:
            return [
                f"client.order: expected one order for each of {self.epochs} epochs, got {len(self.order)}; "
                "correct one of them"
            ]
        size = len(self.order[0])
        for epoch, order in enumerate(self.order):
            if sorted(order) != list(range(size)):
                return [
                    f"client.order: expected every position 0..{size - 1} once in each epoch, got {order} in epoch "
                    f"{epoch}; correct it"
                ]
        return []

    def batch_problems(self, count: int) -> list[str]:
        """What keeps this client from training on `count` examples, one line each."""
        if self.order and len(self.order[0]) != count:
            return [
                f"client.order: expected the positions of {count} examples, got {len(self.order[0])}; "
                "give an order of the batch that is captured"
            ]
        return []

    def with_order(self, count: int, generator: torch.Generator) -> Self:
        """The client with the order that it draws for `count` examples as a setting; itself if it draws none."""
        # The mean over one batch of everything knows no order.
        if self.order is not None or not self.shuffle or (self.batch_size or count) >= count:
            return self
        drawn = (tuple(torch.randperm(count, generator=generator).tolist()) for _ in range(self.epochs))
        return replace(self, order=tuple(drawn))

    def schedule(self, count: int) -> list[list[tuple[int, ...]]]:
        """The positions among `count` examples of each epoch's batches, in the known order or as given."""
        order = self.order if self.order is not None else (tuple(range(count)),) * self.epochs
        size = self.batch_size or count
        return [[epoch[first : first + size] for first in range(0, count, size)] for epoch in order]

    def steps(self, count: int) -> int:
        """The number of local steps on `count` examples."""
        return self.epochs * -(-count // (self.batch_size or count))

    def bind(self, task: Task, state: ModelState, generator: torch.Generator | None = None) -> Simulate:
        """Local training as a function of the whole private data; see `Client.bind`.

        The generator draws the order, unless it is fixed, the masks of random dropout, and latents; without it the
        order is the one in which the examples are given, nothing is dropped, and latents have no noise.

        Returns:
            A function from the whole private data to what is sent.
        """
        step = bound_step(self, task, state, all_trained=True)
        private = None if generator is None else int(torch.randint(2**31, (), generator=generator))

        def simulate(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            count = len(variable)
            client = self if private is None else self.with_order(count, stage_generator(private, "order"))
            chosen = [list(positions) for epoch in client.schedule(count) for positions in epoch]
            batches = [(variable[positions], target_probabilities[positions]) for positions in chosen]
            return self._run(step, batches, None if private is None else stage_generator(private, "masks"))

        return simulate

    def bind_steps(self, task: Task, state: ModelState) -> Callable[[Sequence[Batch]], dict[str, Tensor]]:
        """Local training as a function of the batch of every step, for attacks that do not know who is in which.

        Args:
            task: the public task.
            state: the model's values before the first step.

        Returns:
            A pure function from the batches, in order, to what is sent; differentiable, without dropout.
        """
        step = bound_step(self, task, state, all_trained=True)
        return lambda batches: self._run(step, batches, None)

    def _run(self, step: BoundStep, batches: Sequence[Batch], private: torch.Generator | None) -> dict[str, Tensor]:
        parameters: Named = step.parameters
        buffers: Named = step.buffers
        memory: Memory = {}
        for number, (variable, targets) in enumerate(batches, start=1):
            result = step(parameters, buffers, variable, targets, step.draw(variable, private))
            parameters, memory = self.rule(parameters, result.gradients, memory, number)
            buffers = result.buffers
        sent = sent_names(self, list(step.parameters))
        delta = {name: parameters[name] - step.parameters[name] for name in sent}
        return {**delta, **(buffers if self.send_buffers else {})}
