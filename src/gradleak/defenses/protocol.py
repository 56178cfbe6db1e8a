"""What a defense is: a change that the client makes on purpose to the task, the batch, the step or the update."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from gradleak.defenses.memory import Memory
from gradleak.defenses.preimage import Preimage
from gradleak.tasks import InputSpace, ModelState, Task
from gradleak.updates import UpdateKind


@runtime_checkable
class Defense(Protocol):
    """A change to what is sent.

    Defenses keep no hidden state, and they are applied in the order given. A defense that changes something else than
    the update leaves the update alone in `apply`, and has the method of one of the protocols below.
    """

    def problems(self) -> list[str]:
        """Settings outside their range, one line each."""
        ...

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The defended update.

        Args:
            tensors: the update by name.
            kind: what the tensors are.
            generator: the defense's private randomness; None gives the expected or deterministic part, which is all
                that an attacker who knows the defense can simulate.

        Returns:
            New tensors by name; the given ones are unchanged.
        """
        ...


@runtime_checkable
class StatesPreimage(Protocol):
    """A defense of which can be said, entry by entry, what went in when it is known what came out."""

    def preimage(self, after: Preimage) -> Preimage | None:
        """What is known of the update before this defense.

        Args:
            after: what is known of the update after it.

        Returns:
            The same of the update before; None where no statement for single entries is possible, and the defense has
            to be simulated.
        """
        ...


@runtime_checkable
class AddsNoise(Protocol):
    """A defense that adds independent noise of one law to every entry of the update."""

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on one entry, in the update's own units."""
        ...

    @property
    def noise_law(self) -> Literal["gaussian", "laplace"]:
        """The law of the noise, which is the attacker's likelihood."""
        ...


@runtime_checkable
class KeepsMemory(Protocol):
    """A defense with error feedback: what it did not send in one round counts in the next.

    The memory is the training's to keep; the defense itself has none. A capture is the first round.
    """

    def start(self, tensors: Mapping[str, Tensor]) -> Memory:
        """The memory before the first round, for updates of these shapes."""
        ...

    def advance(
        self, tensors: Mapping[str, Tensor], memory: Memory, round_number: int
    ) -> tuple[dict[str, Tensor], Memory]:
        """One round.

        Args:
            tensors: the client's update, by name.
            memory: after the round before; `Memory.flat` and `Memory.of_flat` save it.
            round_number: from 0.

        Returns:
            What is sent, in place of `apply`, and the memory after it.
        """
        ...


@runtime_checkable
class ChecksTask(Protocol):
    """A defense of the update whose settings fit some tasks only."""

    def task_problems(self, task: Task) -> list[str]:
        """What keeps this defense from being applied to a task, one line each."""
        ...


@runtime_checkable
class ChangesTask(Protocol):
    """A defense that is a part of the model, and so is public."""

    def change_task(self, task: Task) -> Task:
        """The task with the defense built in; the task itself if it has it already."""
        ...


@runtime_checkable
class ChangesBatch(Protocol):
    """A defense that trains on other examples than the private ones."""

    def change_batch(
        self, variable: Tensor, target_probabilities: Tensor, space: InputSpace, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The batch on which the client's step is made.

        Args:
            variable: what the model receives, `[N, *variable_shape]`.
            target_probabilities: `[N, C]`.
            space: of the inputs.
            generator: the defense's private randomness.

        Returns:
            Variable and target probabilities, of the same shapes.
        """
        ...


@runtime_checkable
class MixesTargets(Protocol):
    """A defense that trains on soft targets, where rules for labels that expect one class an example do not hold."""

    @property
    def mixes_targets(self) -> bool:
        """Whether it does so with its settings."""
        ...


@dataclass(frozen=True, eq=False)
class PrivateStep:
    """The client's side of a step, for defenses that look at more than the update.

    Attributes:
        task: the public task.
        state: the model's values before the step.
        variable: what the model received, `[N, *variable_shape]`.
        target_probabilities: `[N, C]`.
    """

    task: Task
    state: ModelState
    variable: Tensor
    target_probabilities: Tensor


@runtime_checkable
class LooksAtStep(Protocol):
    """A defense of the update that depends on the batch, as Soteria does."""

    def step_problems(self, task: Task) -> list[str]:
        """What keeps this defense from being applied to a task, one line each."""
        ...

    def apply_to_step(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, step: PrivateStep, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The defended update, in place of `apply`."""
        ...
