"""The defenses of a training: checked at the door, and in the place that each has in a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from gradleak.audits.by_name.defenses import defense_named
from gradleak.audits.faults import Fault, about_setting, faults_of
from gradleak.audits.spec import Component, Composition
from gradleak.defenses import ChangesBatch, ChangesTask, Defense, LooksAtStep, PrivateStep
from gradleak.defenses.applying import changed_batch, defended
from gradleak.errors import BadInput
from gradleak.seeds import stage_generator
from gradleak.tasks import Task
from gradleak.tokens import TokenSpace
from gradleak.training.steps import denormalized, normalized
from gradleak.updates import UpdateKind

_COMPOSITION = TypeAdapter[tuple[Component, ...]](Composition)


@dataclass(frozen=True, eq=False)
class Defending:
    """Defenses bound to the task that is trained.

    Attributes:
        defenses: in order.
        task: whose model is the one that is trained, with every defense that is a part of it built in.
    """

    defenses: tuple[Defense, ...]
    task: Task

    def batch(self, inputs: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The examples on which a step is made.

        Args:
            inputs: as the model receives them, normalized, `[N, ...]`.
            targets: class indices `[N]`.
            seed: of the defenses' private randomness in this step.

        Returns:
            Inputs and targets; the very same if no defense changes the batch, otherwise probabilities `[N, C]`.
        """
        if not any(isinstance(defense, ChangesBatch) for defense in self.defenses):
            return inputs, targets
        variable, probabilities = denormalized(inputs, self.task.space), self._probabilities(targets)
        variable, probabilities = changed_batch(self.defenses, variable, probabilities, self.task.space, seed)
        return normalized(variable, self.task.space).to(inputs.dtype), probabilities

    def step_of(self, inputs: Tensor, targets: Tensor) -> PrivateStep | None:
        """What a defense may look at, with the model as it is now; None if none does.

        Args:
            inputs: that the model received, `[N, ...]`.
            targets: class indices `[N]` or probabilities `[N, C]`.

        Returns:
            The private side of the step.
        """
        if not any(isinstance(defense, LooksAtStep) for defense in self.defenses):
            return None
        space = self.task.space
        variable = self.task.encode(inputs) if isinstance(space, TokenSpace) else denormalized(inputs, space)
        return PrivateStep(self.task, self.task.state(), variable, self._probabilities(targets))

    def update(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, step: PrivateStep | None, seed: int
    ) -> dict[str, Tensor]:
        """What is sent.

        Args:
            tensors: the update by name; unchanged.
            kind: what it is.
            step: of `step_of`, from before the model changed.
            seed: as for `batch`.

        Returns:
            New tensors by name.
        """
        with torch.no_grad():
            return defended(self.defenses, tensors, kind, step=step, seed=seed)

    def _probabilities(self, targets: Tensor) -> Tensor:
        return self.task.target_probabilities(targets)


def private_seed(seed: int, stage: str, sender: int) -> int:
    """The seed of the defenses' private randomness: of one worker or client in one step or round."""
    return stage_generator(seed, f"{stage}/defense/{sender}").initial_seed()


def defenses_named(composition: Sequence[Component]) -> tuple[Defense, ...]:
    """The defenses of a checked spec."""
    return tuple(defense_named(entry.name, entry.settings) for entry in composition)


def built_in(composition: Sequence[Component]) -> tuple[dict[str, Any], ...]:
    """The defenses of a checked spec that are a part of the model, each a name with its settings side by side."""
    pairs = zip(composition, defenses_named(composition), strict=True)
    return tuple(entry.plain() for entry, defense in pairs if isinstance(defense, ChangesTask))


def composition_faults(entry: Any) -> list[Fault]:
    """What is wrong with the names and settings of defenses; a wrong shape is passed over.

    Args:
        entry: `defense` of a spec, as plain data.

    Returns:
        Faults with their paths under `defense`.
    """
    try:
        composition = _COMPOSITION.validate_python(entry)
    except ValidationError:  # told by the check of the shape
        return []
    found: list[Fault] = []
    several = isinstance(entry, list | tuple)
    for position, component in enumerate(composition):
        place = (position,) if several else ()
        try:
            defense = defense_named(component.name, component.settings)
        except BadInput as error:
            found += [fault.under(*place) for fault in faults_of(error)]
        else:
            found += [about_setting(place, problem) for problem in defense.problems()]
    return found
