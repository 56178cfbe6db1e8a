"""What a client is: one pure, differentiable function from a private batch to an update."""

from collections.abc import Callable
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from gradleak.tasks import ModelState, Task
from gradleak.updates import UpdateKind

Simulate = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""`simulate(variable [N, *variable_shape], target_probabilities [N, C])` gives what is sent, by name.

These are the update's tensors, and the buffers after the step where the client sends them.
"""


@runtime_checkable
class Client(Protocol):
    """One way of turning a private batch into an update.

    The same object serves the victim, whose update it makes, and the attacker, who simulates candidates with it;
    so with no randomness the objective at the true batch is zero.
    """

    @property
    def kind(self) -> UpdateKind:
        """What is sent: a gradient or a weight delta."""
        ...

    def problems(self, task: Task) -> list[str]:
        """Everything that keeps this client from training this task, one line each."""
        ...

    def bind(self, task: Task, state: ModelState, generator: torch.Generator | None = None) -> Simulate:
        """Prepare the client's step once.

        Args:
            task: the public task.
            state: the model's values before the step.
            generator: the client's private randomness; None gives the deterministic part of the step, which is
                all that an attacker can simulate.

        Returns:
            A pure function of the batch, differentiable (twice, where the model is) and usable under `vmap`.
        """
        ...


@runtime_checkable
class ChecksBatch(Protocol):
    """A client that cannot take any number of examples."""

    def batch_problems(self, count: int) -> list[str]:
        """Everything that keeps this client from training on `count` examples, one line each."""
        ...


@runtime_checkable
class DrawsOrder(Protocol):
    """A client that goes through its private examples in an order of its own."""

    def with_order(self, count: int, generator: torch.Generator) -> Self:
        """The client with the order that it draws for `count` examples as a setting."""
        ...
