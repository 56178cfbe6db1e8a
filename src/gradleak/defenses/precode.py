"""PRECODE: a variational bottleneck before the classifier."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.bottleneck import BETA, WIDTH, bottleneck_problems, bottlenecks, with_bottleneck
from gradleak.defenses.preimage import Preimage
from gradleak.tasks import Task
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class Precode:
    """Put a variational bottleneck before the model's last linear layer (Scheliga, Maeder, Seeland, WACV 2022).

    The bottleneck is a part of the public model, and the divergence of its latent variable from N(0, I) a part of the
    loss. What is private is the noise, drawn anew for every step and example, in training and in evaluation mode. See
    `gradleak.bottleneck`. A model that has a bottleneck already, as one that was trained with it, stays as it is.

    Args:
        width: entries of the latent variable.
        beta: weight of the divergence in the loss.
        seed: of the new layers' weights.
        layer: name of the linear layer; None for the last that is trained.
    """

    width: int = WIDTH
    beta: float = BETA
    seed: int = 0
    layer: str | None = None

    def problems(self) -> list[str]:
        """A width below 1, a beta that is negative or not finite, a negative seed."""
        return [f"Precode.{problem}" for problem in bottleneck_problems(self.width, self.beta, self.seed)]

    def change_task(self, task: Task) -> Task:
        """The task of the model with the bottleneck."""
        if bottlenecks(task.model):
            return task
        model = with_bottleneck(task.model, self.width, self.beta, self.seed, self.layer)
        return replace(task, model=model)

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The update as it is."""
        del kind, generator
        return dict(tensors)

    def preimage(self, after: Preimage) -> Preimage:
        """The same."""
        return after
