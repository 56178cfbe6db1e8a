"""What a client is: one pure, differentiable function from a private batch to an update."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gradleak.tasks import ModelState, Task
from gradleak.updates import UpdateKind

Simulate = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""`simulate(variable [N, *variable_shape], target_probabilities [N, C])` gives the update's tensors by name."""


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
