"""The client's step as it can be recomputed from the private batch."""

from collections.abc import Sequence

from torch import Tensor

from gradleak.consistency.hypotheses import Setting
from gradleak.consistency.precision import (
    Recompute,
)
from gradleak.defenses import Defense, PrivateStep
from gradleak.defenses.applying import defended
from gradleak.tasks import Task
from gradleak.updates import UpdateKind, parted


def step_of(task: Task, defenses: Sequence[Defense], sign: int, kind: UpdateKind) -> Recompute:
    """The deterministic part of the client's step and its defenses.

    Args:
        task: the public task.
        defenses: in order.
        sign: turns the result to the kind of the observed update.
        kind: what the client sends.

    Returns:
        From a setting to the update.
    """

    def recompute(setting: Setting) -> dict[str, Tensor]:
        sent = setting.client.bind(task, setting.state)(setting.variable, setting.probabilities)
        tensors, _ = parted(sent, setting.state.parameters)
        private = PrivateStep(task, setting.state, setting.variable, setting.probabilities)
        tensors = defended(defenses, tensors, kind, step=private)
        return {name: sign * tensor.detach() for name, tensor in tensors.items()}

    return recompute
