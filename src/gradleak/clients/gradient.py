"""The client of FedSGD: one gradient of the loss averaged over the private batch."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gradleak.clients.protocol import Simulate
from gradleak.clients.settings import StepSettings
from gradleak.clients.step import BoundStep, Masks, bound_step
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
        """Copy the model in the chosen mode once; see `Client.bind`. Random dropout alone needs the generator."""
        step, simulate = self.bind_masks(task, state)

        def drawn(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            return simulate(variable, target_probabilities, step.draw_masks(variable, generator))

        return drawn

    def bind_masks(
        self, task: Task, state: ModelState
    ) -> tuple[BoundStep, Callable[[Tensor, Tensor, Masks], dict[str, Tensor]]]:
        """The step with the masks of random dropout as an argument, for an attack that searches them.

        Args:
            task: the public task.
            state: the model's values before the step.

        Returns:
            The step, whose `mask_shapes` says which masks there are, and a function of the batch and the masks.
        """
        step = bound_step(self, task, state, all_trained=False)

        def simulate(variable: Tensor, target_probabilities: Tensor, masks: Masks) -> dict[str, Tensor]:
            result = step(step.parameters, step.buffers, variable, target_probabilities, masks, constant_weights=True)
            return {**result.gradients, **(result.buffers if self.send_buffers else {})}

        return step, simulate


def gradient_like(client: StepSettings) -> Gradient:
    """The client that sends one gradient in the way in which the given one makes each of its steps."""
    return Gradient(**{field.name: getattr(client, field.name) for field in fields(StepSettings)})
