"""gradleak: how much of the training data can be rebuilt from the updates that clients share."""

from gradleak import attacks, clients, defenses
from gradleak.captures import Truth, capture
from gradleak.errors import BadInput
from gradleak.reconstructions import Reconstruction
from gradleak.scoring import Scores, score
from gradleak.tasks import ImageSpace, TabularSpace, Task
from gradleak.threat import Observation, ThreatModel
from gradleak.updates import Update

__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "ImageSpace",
    "Observation",
    "Reconstruction",
    "Scores",
    "TabularSpace",
    "Task",
    "ThreatModel",
    "Truth",
    "Update",
    "__version__",
    "attacks",
    "capture",
    "clients",
    "defenses",
    "score",
]
