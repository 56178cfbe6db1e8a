"""How far a run is, and how long the rest will take."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gradleak.audits.plan import PlannedTrial
from gradleak.audits.records import TrialRecord


@dataclass(frozen=True)
class Progress:
    """What a run tells while it runs.

    Attributes:
        planned: trials of the audit.
        stored: of these, how many the store holds, with errors.
        errors: of these, how many failed.
        left: trials of this run that have no result yet.
        seconds: since the run began.
        left_seconds: estimate for the rest; None as long as there is nothing to estimate from.
        record: the trial that was just stored, if one was.
        note: something else that a person should know, otherwise empty.
    """

    planned: int
    stored: int
    errors: int
    left: int
    seconds: float
    left_seconds: float | None
    record: TrialRecord | None = None
    note: str = ""


class Estimate:
    """The time that is left, from what trials of the same kind took in this run.

    Attributes:
        workers: trials that run at the same time.
    """

    def __init__(self, todo: Iterable[PlannedTrial]) -> None:
        self.workers = 1
        self._began = time.perf_counter()
        self._left = Counter(_kind(trial) for trial in todo)
        self._count: Counter[str] = Counter()
        self._cost: Counter[str] = Counter()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._began

    def finished(self, trial: PlannedTrial, seconds: float) -> None:
        """Note what a trial took in its worker."""
        kind = _kind(trial)
        self._left[kind] -= 1
        self._count[kind] += 1
        self._cost[kind] += seconds  # type: ignore[assignment] # Counter is typed for whole numbers only

    @property
    def left_seconds(self) -> float | None:
        """Seconds that the rest will take; None before the first trial has ended."""
        count = sum(self._count.values())
        if not count:
            return None
        mean = sum(self._cost.values()) / count
        work = sum(
            left * (self._cost[kind] / self._count[kind] if self._count[kind] else mean)
            for kind, left in self._left.items()
        )
        return work / self.workers


def _kind(trial: PlannedTrial) -> str:
    """Trials with the same text take about the same time."""
    spec = trial.spec
    examples = spec.get("examples")
    count = len(examples) if isinstance(examples, list) else 0
    model = spec.get("model")
    network = (
        {key: value for key, value in model.items() if key not in {"seed", "digest"}} if isinstance(model, dict) else {}
    )
    return repr((spec.get("attack"), count, network))
