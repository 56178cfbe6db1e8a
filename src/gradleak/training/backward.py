"""Which backward pass the steps of a training have."""

from gradleak.defenses import ChangesBatch
from gradleak.training.defending import Defending
from gradleak.training.memories import Memories
from gradleak.training.private import PrivateGradients, PrivateSettings
from gradleak.training.sent import SentGradients
from gradleak.training.spec import TrainSpec
from gradleak.training.steps import Backward


def backward_of(
    spec: TrainSpec, defending: Defending | None, private: PrivateSettings | None, memories: Memories
) -> Backward | None:
    """How a step gets its gradients.

    Args:
        spec: checked.
        defending: the defenses, bound to the task; None for none.
        private: noise and clipping of a differentially private training.
        memories: what defenses keep from step to step.

    Returns:
        The backward pass; None for a plain one.
    """
    if defending is None:
        return None
    if private is not None:
        return PrivateGradients(defending, private, spec.seed, spec.autocast, memories)
    if defending.defenses or spec.workers > 1 or spec.autocast is not None:
        return SentGradients(defending, spec.workers, spec.seed, spec.autocast, memories)
    return None


def of_batches(defending: Defending | None) -> Defending | None:
    """The defenses that act in each local step, and not on what is sent after the last one."""
    if defending is None:
        return None
    return Defending(tuple(entry for entry in defending.defenses if isinstance(entry, ChangesBatch)), defending.task)
