"""Other ways in which a client may have made its update; each is recomputed and compared."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from gradleak.clients import Client
from gradleak.tasks import ModelState

# Normalizations in wide use, for clients that applied one which the task does not know of.
_NORMALIZATIONS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("to [-1, 1]", (0.5,), (0.5,)),
    ("with ImageNet's mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("with CIFAR-10's mean and std", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("with MNIST's mean and std", (0.1307,), (0.3081,)),
)
_MASK_SEEDS = 3
_SMALL_BATCH = 4


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that determines an update of a task, defenses aside.

    Attributes:
        client: how it is made.
        state: the model's values before the step.
        variable: `[N, *variable_shape]`.
        probabilities: `[N, C]`.
    """

    client: Client
    state: ModelState
    variable: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class Hypothesis:
    """One thing that may differ between the client and what is believed of it.

    Attributes:
        name: the cause's name.
        explanation: what it is and what to do, one sentence.
        group: hypotheses of one group exclude each other.
        change: from the setting believed to the setting supposed.
    """

    name: str
    explanation: str
    group: str
    change: Callable[[Setting], Setting]


def with_options(client: Client, **options: Any) -> Client | None:
    """The client with other options; None if it has no such options."""
    if not is_dataclass(client) or not set(options) <= {field.name for field in fields(client)}:
        return None
    return replace(client, **options)
