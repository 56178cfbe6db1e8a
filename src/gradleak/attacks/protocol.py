"""What an attack is, and the answer of one that does not apply."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from gradleak.reconstructions import Reconstruction
from gradleak.tasks import Task
from gradleak.threat import Observation
from gradleak.tokens import NO_TOKEN, TokenSpace

Progress = Callable[[int, float], None]
"""`progress(evaluations, best objective so far)`, called now and then while an attack runs."""


class Attack(Protocol):
    """A way from an observation to a reconstruction.

    An attack never sees the truth; whatever it chooses among, it chooses by its own objective.
    """

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack.

        Args:
            observation: what the attacker holds; it is not changed.
            seed: seed of every random draw; the same seed on the same machine gives the same bits.
            progress: called while it runs.

        Returns:
            A reconstruction with a status; numerical trouble is a status, not an exception.
        """
        ...


@runtime_checkable
class ChecksTask(Protocol):
    """An attack with settings that name parts of the model."""

    def problems(self, task: Task) -> list[str]:
        """Everything that keeps these settings from fitting the task, one line each."""
        ...


def not_applicable(name: str, observation: Observation, reason: str) -> Reconstruction:
    """The result of an attack that cannot say anything about this observation: no image, and the reason why.

    Args:
        name: the attack's name.
        observation: what it was given.
        reason: one sentence for people.

    Returns:
        A reconstruction with status `not_applicable` that holds NaN, or `NO_TOKEN` for tokens; one row if the batch
        size is withheld.
    """
    task = observation.task
    count = observation.batch_size or 1
    tokens = isinstance(task.space, TokenSpace)
    return Reconstruction(
        inputs=torch.full((count, *task.space.shape), NO_TOKEN if tokens else torch.nan),
        targets=torch.full((count, *task.target_shape[:-1]), -1, dtype=torch.long),
        targets_given=observation.targets is not None,
        objective=float("nan"),
        evaluations=0,
        seconds=0.0,
        status="not_applicable",
        attack=name,
        variable=torch.full((1,), torch.nan).expand(count, *task.space.variable_shape),
        target_probabilities=torch.full((1,), torch.nan).expand(count, *task.target_shape),
        message=reason,
    )
