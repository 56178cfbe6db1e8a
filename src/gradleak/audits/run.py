"""Running an audit's trials: resume, hand out, store as soon as something is there, and end in an orderly way."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from gradleak.audits.backends import Pool, open_pool
from gradleak.audits.executing import Build, Call, Results, Work, failed
from gradleak.audits.interrupts import Interrupts
from gradleak.audits.plan import PlannedTrial
from gradleak.audits.progress import Estimate, Progress
from gradleak.audits.records import TrialRecord, read_line
from gradleak.audits.settings import RunSettings
from gradleak.audits.store import PackedTrial, Store, pack
from gradleak.audits.waiting import ATTEMPTS, Waiting
from gradleak.errors import BadInput

DEATHS_IN_A_ROW = 10
"""So many deaths of workers without one result between them end a run: then it is not the trials."""

Notify = Callable[[Progress], None]
"""Called in the coordinator after every trial and for every note."""


@dataclass(frozen=True)
class AuditOutcome:
    """What came of a run.

    Attributes:
        planned: trials of the audit.
        finished: of these, how many the store holds with a result.
        errors: of these, how many it holds as failed.
        missing: of these, how many it does not hold.
        interrupted: whether Ctrl-C or SIGTERM ended the run.
        stopped: why it ended before its time and what to do, in words; empty if it did not.
    """

    planned: int
    finished: int
    errors: int
    missing: int
    interrupted: bool = False
    stopped: str = ""

    @property
    def complete(self) -> bool:
        """Whether every planned trial has a result."""
        return self.finished == self.planned


def run_audit(
    planned: Sequence[PlannedTrial],
    store: Store,
    settings: RunSettings,
    *,
    retry_errors: bool = False,
    command: str | None = None,
    notify: Notify | None = None,
    build: Build | None = None,
) -> AuditOutcome:
    """Run the trials that the store does not hold yet, and store each as soon as it is there.

    The store is the only memory: whatever ends a run, the same call goes on from there.

    Args:
        planned: every trial of the audit.
        store: where results are and go.
        settings: where and how they run.
        retry_errors: run those again that failed.
        command: the command line that repeats the run, for the records and the advice.
        notify: told what happens.
        build: makes a trial from its spec, in any process; `building.build` if it is None.

    Returns:
        What the store holds of them now, and why the run ended if it did not come to its end.

    Raises:
        BadInput: when the folder cannot be written, another run writes to it, it holds damaged lines, or the backend
            cannot be used; nothing was run then.
    """
    if build is None:
        from gradleak.audits.building import build
    with store.exclusive() as notes:
        run = _Run(planned, store, settings, retry_errors=retry_errors, notify=notify)
        for note in notes:
            run.tell(note=note)
        interrupts = Interrupts()
        with interrupts.caught():
            run.go(partial(_work, build, settings.threads, command), interrupts)
        return run.outcome(command)


def _work(build: Build, threads: int, command: str | None, seconds: float) -> Work:
    return Work(build, threads, command, seconds, tuple(entry for entry in sys.path if entry))


class _Run:
    """The state of one run in its one coordinator."""

    def __init__(
        self,
        planned: Sequence[PlannedTrial],
        store: Store,
        settings: RunSettings,
        *,
        retry_errors: bool,
        notify: Notify | None,
    ) -> None:
        self.planned = {trial.id: trial for trial in planned}
        self.store, self.settings, self.notify = store, settings, notify
        self.statuses = {key: status for key, status in store.statuses().items() if key in self.planned}
        again = {"error"} if retry_errors else set[str]()
        self.todo = [
            trial
            for trial in self.planned.values()
            if trial.id not in self.statuses or self.statuses[trial.id] in again
        ]
        self.left = len(self.todo)
        self.estimate = Estimate(self.todo)
        self.failures = self.deaths = 0
        self.interrupted, self.stopped = False, ""

    # ---- the loop

    def go(self, work: Callable[[float], Work], interrupts: Interrupts) -> None:
        """Run what is to do."""
        if not self.todo:
            return
        pool = open_pool(self.settings, self.store.folder)
        self.work, self.interrupts = work(pool.seconds), interrupts
        self.estimate.workers = pool.workers
        self.waiting = Waiting(self.todo, workers=pool.workers, seconds=pool.seconds, adaptive=pool.adaptive)
        self.running: dict[Future[Results], Call] = {}
        try:
            while not self.stopped:
                broken = not self.fill(pool)
                if not self.running and not broken:
                    break
                if self.running:
                    lost = self.collect(pool, wait(self.running, return_when=FIRST_COMPLETED).done)
                    broken = broken or (lost and not pool.survives)
                if broken and not self.stopped:
                    self.collect(pool, wait(self.running).done)  # all of them fail now
                    pool.close(kill=True)
                    pool = open_pool(self.settings, self.store.folder)
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            self.end(pool)

    def fill(self, pool: Pool) -> bool:
        """Hand out calls until the pool is full; whether it took them."""
        calls: list[Call] = []
        while self.waiting and len(self.running) + len(calls) < pool.size:
            trials = self.waiting.take(len(self.running) + len(calls))
            if not trials:
                break
            calls.append(Call(trials, self.work))
        try:
            futures = pool.submit(calls) if calls else []
        except pool.lost:  # a worker died since the last look; these trials never began, so they are not suspect
            for call in calls:
                self.waiting.put_back(call.trials)
            self.died()
            return False
        self.running |= dict(zip(futures, calls, strict=True))
        return True

    def collect(self, pool: Pool, ended: set[Future[Results]]) -> bool:
        """Store what has ended; whether a worker was lost."""
        lost: list[PlannedTrial] = []
        for future in ended:
            call = self.running.pop(future)
            try:
                results = future.result()
            except pool.lost:
                lost.extend(call.trials)
            # Neither a trial's failure nor a worker's death: the backend cannot run calls, and another try is no use.
            except Exception as error:  # noqa: BLE001
                self.stopped = f"a worker could not do its work ({type(error).__name__}: {error})"
            else:
                self.deaths = 0
                self.waiting.put_back(call.trials[len(results.trials) :])
                self.waiting.learn(len(results.trials), results.seconds)
                self.keep(results.trials, results.seconds / len(results.trials))
        if lost:
            self.bury(lost)
        return bool(lost)

    def bury(self, lost: Sequence[PlannedTrial]) -> None:
        """Try the trials of a dead worker again, and give up those that had all their attempts."""
        given_up = self.waiting.died(lost)
        message = (
            f"its worker died {ATTEMPTS} times while this trial ran, the last time with nothing beside it: killed, out "
            "of memory, or a crash in native code"
        )
        if given_up:
            self.deaths = 0
            command = self.work.command
            self.keep([pack(failed(trial.spec, trial.id, message, command=command)) for trial in given_up], 0.0)
        self.died()

    def died(self) -> None:
        """Count the death of a worker."""
        self.deaths += 1
        self.tell(note="A worker died (killed, out of memory, or a crash in native code); its trials run again.")
        if self.deaths >= DEATHS_IN_A_ROW:
            self.stopped = f"{self.deaths} workers died in a row without one result; look at memory and system logs"

    def end(self, pool: Pool) -> None:
        """Keep what has ended in the meantime, and leave no worker behind."""
        early = self.interrupted or bool(self.stopped) or bool(self.running)
        with suppress(KeyboardInterrupt), self.interrupts.held_back():  # it ends already
            if early:
                ended = {future for future in self.running if future.done() and future.exception() is None}
                why = self.stopped
                self.collect(pool, ended)
                self.stopped = why or self.stopped
            pool.close(kill=early)

    # ---- results

    def keep(self, trials: Sequence[PackedTrial], seconds: float) -> None:
        """Store trials and tell about each."""
        try:
            with self.interrupts.held_back():
                self.store.append_all(trials)
        except BadInput as error:
            self.stopped = f"nothing more can be stored ({error})"
            return
        for trial in trials:
            record = read_line(trial.line.decode())
            self.statuses[trial.id] = record.status
            self.left -= 1
            self.failures += record.status == "error"
            self.estimate.finished(self.planned[trial.id], seconds)
            self.tell(record)
        if self.settings.errors is not None and self.failures >= self.settings.errors and not self.stopped:
            self.stopped = (
                f"{self.failures} trials failed, and run.errors allows no more; read the tracebacks in the report"
            )

    def tell(self, record: TrialRecord | None = None, note: str = "") -> None:
        """Call `notify`."""
        if self.notify is None:
            return
        errors = sum(status == "error" for status in self.statuses.values())
        estimate = self.estimate
        self.notify(
            Progress(
                planned=len(self.planned),
                stored=len(self.statuses),
                errors=errors,
                left=self.left,
                seconds=estimate.seconds,
                left_seconds=estimate.left_seconds,
                record=record,
                note=note,
            )
        )

    def outcome(self, command: str | None) -> AuditOutcome:
        """What the store holds, and the advice."""
        statuses = [status for key, status in self.store.statuses().items() if key in self.planned]
        errors = statuses.count("error")
        stopped = "interrupted" if self.interrupted else self.stopped
        if stopped:
            again = f"run it again: {command}" if command else "start the same run again"
            stopped += f". What was finished is stored; to go on, {again}"
        return AuditOutcome(
            planned=len(self.planned),
            finished=len(statuses) - errors,
            errors=errors,
            missing=len(self.planned) - len(statuses),
            interrupted=self.interrupted,
            stopped=stopped,
        )
