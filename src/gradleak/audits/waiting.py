"""Trials that have not run yet: which go to a worker together, and which get another attempt."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from math import ceil

from gradleak.audits.plan import PlannedTrial

ATTEMPTS = 3
"""So often a trial may take its worker down before it counts as failed."""

_BALANCE = 2  # calls for each worker that are left when the rest is shared out, so that all end at about the same time


class Waiting:
    """The trials that are left, in the order of the plan, which has those next to each other that share a task.

    Quick trials go to a worker many at a time, where each builds a task once. With `adaptive`, the first call has one,
    and calls grow until one takes as long as it should; otherwise all calls have the same size from the start.

    When a worker dies, nobody knows which trial killed it, so every trial that was running is suspect: it runs once
    more in a call of its own, and after a second death with nothing beside it.
    """

    def __init__(self, planned: Iterable[PlannedTrial], *, workers: int, seconds: float, adaptive: bool = True) -> None:
        self._fresh = deque(planned)
        self._suspects: list[PlannedTrial] = []
        self._deaths: Counter[str] = Counter()
        self._workers, self._seconds, self._adaptive = workers, seconds, adaptive
        self._size = 1 if adaptive else max(1, self._fair)
        self._alone = False

    def __len__(self) -> int:
        return len(self._fresh) + len(self._suspects)

    def take(self, running: int) -> tuple[PlannedTrial, ...]:
        """The trials of the next call; none if nothing may start before the running calls end.

        Args:
            running: number of calls that are running.

        Returns:
            At least one if none is running and any is left.
        """
        if running == 0:
            self._alone = False
        if self._alone:
            return ()
        if self._suspects:
            # The most suspect first: a run whose every trial kills its worker has to come to its end soon.
            suspect = max(self._suspects, key=lambda trial: self._deaths[trial.id])
            last_attempt = self._deaths[suspect.id] >= ATTEMPTS - 1
            if last_attempt and running:
                return ()
            self._alone = last_attempt
            self._suspects.remove(suspect)
            return (suspect,)
        size = min(self._size, self._fair) if self._adaptive else min(self._size, len(self._fresh))
        return tuple(self._fresh.popleft() for _ in range(size))

    @property
    def _fair(self) -> int:
        """The size of a call that leaves some for every worker."""
        return ceil(len(self._fresh) / (self._workers * _BALANCE))

    def learn(self, count: int, seconds: float) -> None:
        """Adapt the size of the next calls.

        Args:
            count: trials that a call finished.
            seconds: how long that took.
        """
        if not self._adaptive:
            return
        fitting = int(self._seconds * count / max(seconds, 1e-6))
        self._size = max(1, min(fitting, 2 * self._size))

    def put_back(self, trials: Sequence[PlannedTrial]) -> None:
        """Take back what a call did not come to."""
        for trial in reversed(trials):
            if self._deaths[trial.id]:
                self._suspects.append(trial)
            else:
                self._fresh.appendleft(trial)

    def died(self, trials: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        """Note that a worker died while these ran.

        Returns:
            Those that have no attempt left.
        """
        self._deaths.update(trial.id for trial in trials)
        hopeless = [trial for trial in trials if self._deaths[trial.id] >= ATTEMPTS]
        self._suspects.extend(trial for trial in trials if self._deaths[trial.id] < ATTEMPTS)
        return hopeless
