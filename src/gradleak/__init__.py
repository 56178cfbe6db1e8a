"""gradleak: how much of the training data can be rebuilt from the updates that clients share."""

from typing import TYPE_CHECKING, Any

from gradleak import attacks, bounds, clients, defenses
from gradleak.bounds import LeakageBound, leakage_bound
from gradleak.captures import Truth, capture
from gradleak.errors import BadInput
from gradleak.inspection import Inspection, inspect
from gradleak.reconstructions import Reconstruction
from gradleak.scoring import Scores, score
from gradleak.tasks import ImageSpace, TabularSpace, Task
from gradleak.threat import Observation, ThreatModel
from gradleak.tokens import TokenSpace, masked_tokens, next_tokens
from gradleak.updates import Update

if TYPE_CHECKING:
    from gradleak.audits.audit import audit
    from gradleak.training.train import train

__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "ImageSpace",
    "Inspection",
    "LeakageBound",
    "Observation",
    "Reconstruction",
    "Scores",
    "TabularSpace",
    "Task",
    "ThreatModel",
    "TokenSpace",
    "Truth",
    "Update",
    "__version__",
    "attacks",
    "audit",
    "bounds",
    "capture",
    "clients",
    "defenses",
    "inspect",
    "leakage_bound",
    "masked_tokens",
    "next_tokens",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    # Audits and trainings bring pydantic models, stores and pictures, which an import of the package alone should not
    # pay for.
    if name == "audit":
        from gradleak.audits.audit import audit

        return audit
    if name == "train":
        from gradleak.training.train import train

        return train
    raise AttributeError(f"module 'gradleak' has no attribute {name!r}")
