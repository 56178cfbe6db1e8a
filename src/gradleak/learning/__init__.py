"""Training of inverters on public data."""

from gradleak.learning.run import LearnOutcome, LearnProgress, learn
from gradleak.learning.settings import LearnSettings

__all__ = ["LearnOutcome", "LearnProgress", "LearnSettings", "learn"]
