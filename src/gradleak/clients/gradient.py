"""The client of FedSGD: one gradient of the loss averaged over the private batch."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gradleak.clients.protocol import Simulate
from gradleak.clients.settings import StepSettings
from gradleak.clients.step import BoundStep, Draws, bound_step
from gradleak.tasks import ModelState, Task
from gradleak.updates import UpdateKind


@dataclass(frozen=True, kw_only=True)
class Gradient(StepSettings):
    """Share `dL/dw` of the mean loss over the private batch (Zhu, Liu, Han 2019, equation 3).

    Args:
        mode: as all the others, see `StepSettings`.
    """

    @property
    def kind(self) -> UpdateKind:
        """A gradient."""
        return "gradient"

    def bind(self, task: Task, state: ModelState, generator: torch.Generator | None = None) -> Simulate:
        """Copy the model in the chosen mode once; see `Client.bind`. Random dropout and latents need the generator."""
        step, simulate = self.bind_draws(task, state)

        def drawn(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            return simulate(variable, target_probabilities, step.draw(variable, generator))

        return drawn

    def bind_draws(
        self, task: Task, state: ModelState
    ) -> tuple[BoundStep, Callable[[Tensor, Tensor, Draws], dict[str, Tensor]]]:
        """The step with its private draws as an argument, for an attack that searches them.

        Args:
            task: the public task.
            state: the model's values before the step.

        Returns:
            The step, whose `draws` says which there are, and a function of the batch and the draws.
        """
        step = bound_step(self, task, state, all_trained=False)

        def simulate(variable: Tensor, target_probabilities: Tensor, draws: Draws) -> dict[str, Tensor]:
            result = step(step.parameters, step.buffers, variable, target_probabilities, draws, constant_weights=True)
            return {**result.gradients, **(result.buffers if self.send_buffers else {})}

        return step, simulate


def gradient_like(client: StepSettings) -> Gradient:
    """The client that sends one gradient in the way in which the given one makes each of its steps."""
    return Gradient(**{field.name: getattr(client, field.name) for field in fields(StepSettings)})
