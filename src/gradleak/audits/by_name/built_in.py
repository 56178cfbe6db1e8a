"""Models with defenses that are a part of them, from plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gradleak.audits.by_name.components import defense_named
from gradleak.defenses.applying import changed_task
from gradleak.tasks import InputSpace, Task


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
