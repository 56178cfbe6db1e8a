"""Defenses by name, and models with those that are a part of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gradleak.audits.by_name.parts import component
from gradleak.defenses import DEFENSES, Defense
from gradleak.defenses.applying import changed_task
from gradleak.tasks import InputSpace, Task


def defense_named(name: str, settings: Mapping[str, object]) -> Defense:
    """A defense by the name of its class.

    Args:
        name: of the package, of a plugin, or `package.module:factory`.
        settings: keyword arguments, as plain data.

    Returns:
        The defense.

    Raises:
        BadSettings: when there is none of that name, or it does not take these settings.
    """
    return component("defenses", name, settings, DEFENSES, ("problems", "apply"))


def with_built_in(
    model: nn.Module, defenses: Sequence[Mapping[str, Any]], space: InputSpace, num_classes: int
) -> nn.Module:
    """A model with defenses built in, as it was when it was trained with them.

    Args:
        model: without them.
        defenses: each a name with its settings side by side, in order; empty for the model itself.
        space: of the inputs.
        num_classes: number of classes.

    Returns:
        The model that then has the names of the trained weights.

    Raises:
        BadInput: when there is no such defense, or it does not fit the model.
    """
    if not defenses:
        return model
    made = [
        defense_named(entry["name"], {key: value for key, value in entry.items() if key != "name"})
        for entry in defenses
    ]
    return changed_task(made, Task(model, space, num_classes)).model
