"""Running planned trials where they are sent: in this process, in another one, or on another machine."""

import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from gradleak.audits.environment import environment
from gradleak.audits.merits import TEXT_SCORES
from gradleak.audits.plan import PlannedTrial
from gradleak.audits.records import TrialRecord, mapping
from gradleak.audits.store import PackedTrial, pack
from gradleak.audits.texts import TrialTexts
from gradleak.audits.trial import Trial, TrialImages, run_trial
from gradleak.scoring import Scores
from gradleak.threads import torch_threads
from gradleak.threat import ThreatModel

Build = Callable[[dict[str, Any]], Trial]
"""Makes a trial from its spec, in any process; it keeps data sets and models that it will need again."""


@dataclass(frozen=True)
class Work:
    """What all calls of a run have in common.

    Attributes:
        build: makes the trials.
        threads: torch threads.
        command: the command line that repeats the run, for the records.
        seconds: a call hands back what it has after this time, and the rest unfinished.
        path: where modules are searched, so that a factory which the coordinator found is found elsewhere.
    """

    build: Build
    threads: int
    command: str | None
    seconds: float
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """What a call hands back: the first of its trials, finished, and how long they took.

    Attributes:
        trials: at least one, in the order of the call.
        seconds: wall time, building included.
    """

    trials: tuple[PackedTrial, ...]
    seconds: float


@dataclass(frozen=True)
class Call:
    """Trials that go to a worker together. Only plain data travel, and the worker builds the objects."""

    trials: tuple[PlannedTrial, ...]
    work: Work

    def __call__(self) -> Results:
        """Run them until the time is over, at least one."""
        work = self.work
        sys.path.extend(entry for entry in work.path if entry not in sys.path)
        began = time.perf_counter()
        finished: list[PackedTrial] = []
        for trial in self.trials:
            record, images = execute(trial.spec, trial.id, work.threads, work.command, work.build)
            finished.append(pack(record, images))
            if time.perf_counter() - began >= work.seconds:
                break
        return Results(tuple(finished), time.perf_counter() - began)


def execute(
    spec: dict[str, Any], identity: str, threads: int, command: str | None, build: Build
) -> tuple[TrialRecord, TrialImages | TrialTexts | None]:
    """Build and run one trial; whatever goes wrong becomes a record with status `error` and its traceback.

    Args:
        spec: the trial as plain data.
        identity: its id.
        threads: torch threads while it runs.
        command: the command line that repeats it, for the record.
        build: makes the trial.

    Returns:
        The record, and the images or texts if it came that far.
    """
    with torch_threads(threads):
        try:
            trial = build(spec)
            record, images = run_trial(trial, command=command)
        # Building calls foreign factories, and a worker that raises would take the other trials of its call with it.
        except Exception as error:  # noqa: BLE001
            return failed(
                spec, identity, f"{type(error).__name__}: {error}", traceback=traceback.format_exc(), command=command
            ), None
        if record.id != identity:
            message = f"expected the trial {identity}, built {record.id}: the spec does not describe what was built"
            return failed(spec, identity, message, command=command), None
        return record, images


def failed(
    spec: dict[str, Any], identity: str, message: str, *, traceback: str = "", command: str | None = None
) -> TrialRecord:
    """The record of a trial that has no result.

    Args:
        spec: the trial as plain data.
        identity: its id.
        message: why.
        traceback: of the exception, if there was one.
        command: the command line that repeats it.

    Returns:
        A record with status `error`, with NaN for every score of every private example.
    """
    threat = mapping(spec.get("threat"))
    examples = spec.get("examples")
    count = len(examples) if isinstance(examples, list) else 0
    return TrialRecord(
        id=identity,
        status="error",
        spec=spec,
        threat=_described(threat),
        scores={name: (missing,) * count for name, missing in _missing(spec).items()},
        targets_given=bool(threat.get("labels_known", False)),
        objective=math.nan,
        evaluations=0,
        seconds=math.nan,
        message=_text(message),
        traceback=_text(traceback),
        environment=environment(command=command),
    )


def _missing(spec: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Every column of scores with what stands there for "no comparison"."""
    special: dict[str, int | None] = {"target_correct": None, "paired_with": -1}
    names = [field.name for field in fields(Scores) if field.name not in {"targets_given", "text"}]
    if mapping(spec.get("space")).get("name") == "TokenSpace":
        names += TEXT_SCORES
    return {name: special.get(name, math.nan) for name in names}


def _described(threat: Mapping[str, object]) -> str:
    known = {field.name for field in fields(ThreatModel)}
    return ThreatModel(**{name: bool(value) for name, value in threat.items() if name in known}).describe()


def _text(text: str) -> str:
    """Text that every encoder accepts: an exception may quote bytes that are no Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")
