"""Declared limits of leakage, and whether trials keep them: what a gate in continuous integration acts on.

A limit is kept only where the trials show it: the upper end of the 95 % interval of the success rate has to stay below
it. So few trials keep no tight limit, however clean they are.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gradleak.audits.merits import PSNR, score_at
from gradleak.audits.records import TrialRecord
from gradleak.audits.summarizing import capture_of, cell_of, rate, settings_of
from gradleak.audits.summary import Rate

State = Literal["kept", "exceeded", "missing"]


class Declared(Protocol):
    """A limit as a spec declares it."""

    @property
    def success_rate_at(self) -> float:
        """From which value a batch counts as leaked: PSNR in dB, or token accuracy."""
        ...

    @property
    def below(self) -> float:
        """Share in (0, 1] that the success rate must stay below."""
        ...

    @property
    def score(self) -> str | None:
        """The column of scores that is compared with the threshold; None for the figure of merit of the data."""
        ...


@dataclass(frozen=True)
class Checked:
    """One limit in one cell of the grid.

    Attributes:
        threshold: value from which a batch counts as leaked: PSNR in dB, token accuracy, or what `score` says.
        below: share that must not be reached.
        cell: the settings of the cell, by dotted path; those of attacks are left out, for a batch counts as leaked
            when any attack reached the threshold on one of its images.
        leaked: batches that leaked, of those whose attacks all have a result.
        unfinished: batches without a leak on which an attack crashed.
        score: the column of scores that was compared with the threshold.
        trouble: why no trial can tell, such as a threshold in dB for texts; empty if they can.
    """

    threshold: float
    below: float
    cell: Mapping[str, object]
    leaked: Rate
    unfinished: int
    score: str = PSNR.score
    trouble: str = ""

    @property
    def state(self) -> State:
        """`exceeded` if the trials do not show that the rate stays below; `missing` if results are missing."""
        if not self.leaked.trials:
            return "missing"
        if self.leaked.high >= self.below:
            return "exceeded"
        return "missing" if self.unfinished else "kept"

    def describe(self) -> str:
        """What was found, and what to do where only trials are lacking."""
        found = (
            f"{self.leaked.successes} of {self.leaked.trials} captured batches at "
            f"{score_at(self.score, self.threshold)} or more, "
            f"95 % interval up to {100 * self.leaked.high:.1f} %; limit below {100 * self.below:g} %"
        )
        if self.trouble:
            return f"{self.trouble}; limit below {100 * self.below:g} %"
        if not self.leaked.trials:
            return f"no captured batch has all its results; limit below {100 * self.below:g} %"
        if self.state == "exceeded" and self.leaked.successes == 0:
            found += f". Nothing leaked, but it takes {batches_to_show(self.below)} clean batches to show this limit"
        return f"{found}; {self.unfinished} further batches lack a result" if self.unfinished else found


def batches_to_show(below: float) -> int:
    """How many captured batches without any leak bring the upper end of the interval below a limit."""
    # Wilson's upper end without any success is z^2 / (n + z^2).
    square = 1.959963984540054**2
    return math.floor(square / below - square) + 1


def check_limits(records: Sequence[TrialRecord], limits: Sequence[Declared]) -> tuple[Checked, ...]:
    """Check every limit in every cell of the grid.

    Args:
        records: of one store.
        limits: as declared.

    Returns:
        One entry for each limit and cell, limits outermost.
    """
    cells: dict[str, dict[str, list[TrialRecord]]] = {}
    settings: dict[str, Mapping[str, object]] = {}
    for record in records:
        cell = cell_of(settings_of(record))
        key = json.dumps(cell, sort_keys=True)
        settings[key] = cell
        cells.setdefault(key, {}).setdefault(capture_of(record), []).append(record)
    return tuple(
        _checked(limit, settings[key], list(batches.values())) for limit in limits for key, batches in cells.items()
    )


def _checked(limit: Declared, cell: Mapping[str, object], batches: Sequence[Sequence[TrialRecord]]) -> Checked:
    outcomes: list[bool] = []
    unfinished = 0
    score = limit.score or batches[0][0].merit.score
    trouble = _trouble(score, limit.success_rate_at, batches)
    if trouble:
        # What cannot be exceeded would always be kept.
        return Checked(limit.success_rate_at, limit.below, cell, rate([]), len(batches), score, trouble)
    for trials in batches:
        # A leak stays a leak, whatever the attacks without a result would have found.
        if any(value >= limit.success_rate_at for trial in trials for value in trial.numbers(score)):
            outcomes.append(True)
        elif any(trial.status == "error" for trial in trials):
            unfinished += 1
        else:
            outcomes.append(False)
    return Checked(limit.success_rate_at, limit.below, cell, rate(outcomes), unfinished, score)


def _trouble(score: str, threshold: float, batches: Sequence[Sequence[TrialRecord]]) -> str:
    """Why a limit says nothing about these trials, or an empty text."""
    if threshold > (math.inf if score == PSNR.score else 1.0):
        return (
            f"no value of {score_at(score, threshold).rpartition(' ')[0]} reaches {threshold:g}: give a share up to 1"
        )
    merit = batches[0][0].merit
    if score not in {name for name, _, _ in merit.columns}:
        return f"a {merit.noun} has no score {score}"
    return ""
