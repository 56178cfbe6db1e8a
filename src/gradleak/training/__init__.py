"""Training of reference models, with checkpoints that audits take up."""

from gradleak.training.checkpoints import Checkpoint, find_checkpoint, read_checkpoint
from gradleak.training.run import TrainOutcome, TrainProgress
from gradleak.training.spec import TrainSpec
from gradleak.training.train import train

__all__ = ["Checkpoint", "TrainOutcome", "TrainProgress", "TrainSpec", "find_checkpoint", "read_checkpoint", "train"]
