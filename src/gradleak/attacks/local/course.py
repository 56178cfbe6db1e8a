"""What an attack of several searches did so far."""

import time
from dataclasses import dataclass, field

from torch import Tensor

from gradleak.attacks.purse import Purse
from gradleak.optim import Minimum
from gradleak.reconstructions import Snapshot
from gradleak.threat import Observation


@dataclass
class Course:
    """What was done so far: evaluations, trace, and the values along the way."""

    began: float
    purse: Purse
    trace: list[str]
    evaluations: list[int] = field(default_factory=list[int])
    seconds: list[float] = field(default_factory=list[float])
    values: list[float] = field(default_factory=list[float])
    snapshots: list[Snapshot] = field(default_factory=list[Snapshot])

    def record(self, ended: Minimum, used: int | None = None) -> None:
        """Append one search, after which so many evaluations were used; None for as many as now."""
        used = self.purse.used if used is None else used
        now = time.perf_counter() - self.began - ended.seconds
        self.evaluations += range(used - ended.evaluations + 1, used + 1)
        last = self.seconds[-1] if self.seconds else 0.0
        self.seconds += [max(last, now + seconds) for seconds in ended.times]
        self.values += ended.trace[:, 0].tolist()

    def picture(self, observation: Observation, variable: Tensor) -> None:
        """Keep a candidate."""
        self.snapshots.append(Snapshot(self.purse.used, observation.task.space.decode(variable)))
