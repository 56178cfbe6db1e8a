"""Bounds in the folder of an audit: one line of `bounds.jsonl` for each captured batch.

Like trials they are kept as soon as they are there, and a line that was torn is computed again.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gradleak.audits.interrupts import Interrupts
from gradleak.audits.lines import Identified, append_lines, newest_records
from gradleak.audits.lock import exclusive
from gradleak.audits.records import Number
from gradleak.defenses import AddsNoise, Clip, Defense, DropLayers, RandomK, Sign
from gradleak.errors import BadInput

if TYPE_CHECKING:
    from gradleak.audits.bounding import PlannedBound
    from gradleak.audits.trial import Trial
    from gradleak.bounds import LeakageBound
    from gradleak.bounds.chosen_prior import PriorName

FILE = "bounds.jsonl"

_SMOOTH = (AddsNoise, Clip, DropLayers, RandomK)

BoundStatus = Literal["bounded", "unbounded", "free_directions", "nothing", "partial", "error", "not_applicable"]
"""That of `LeakageBound`; `error`: an exception; `not_applicable`: there is no bound, and the message says why."""


class BoundFacts(BaseModel):
    """The figures of a `LeakageBound`, without its tensors.

    Attributes:
        status: see `BoundStatus`.
        psnr_ceiling: as in `LeakageBound`, and so are all others.
        precision_ceiling: likewise.
        mse_floor: likewise.
        prior_psnr_ceiling: likewise.
        prior_mse_floor: likewise.
        prior: likewise; empty for none.
        prior_spread: likewise.
        rank: likewise.
        free_directions: likewise.
        unknowns: likewise.
        equations: likewise.
        recoverable: likewise.
        fisher_trace: likewise.
        method: likewise; empty where there is no bound.
        error: likewise.
        assumptions: likewise.
        seconds: likewise.
        spread: standard deviation of the squared error of the best unbiased estimate over draws of the noise, as a
            share of its mean; NaN without noise, and where the whole spectrum is not known.
        smooth: whether there is noise, and no defense makes what it lies on jump: none selects by size, rounds, or
            takes signs, which tells something that no derivative knows.
        before_signs: whether signs were taken of what this is about, which have no derivative but zero.
        message: why there is no bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    status: BoundStatus
    psnr_ceiling: Number = math.nan
    precision_ceiling: Number = math.nan
    mse_floor: Number = math.nan
    prior_psnr_ceiling: Number = math.nan
    prior_mse_floor: Number = math.nan
    prior: str = ""
    prior_spread: Number = math.nan
    rank: int = 0
    free_directions: int = 0
    unknowns: int = 0
    equations: int = 0
    recoverable: Number = math.nan
    fisher_trace: Number = math.nan
    method: str = ""
    error: Number = math.nan
    assumptions: tuple[str, ...] = ()
    seconds: Number = 0.0
    spread: Number = math.nan
    smooth: bool = False
    before_signs: bool = False
    message: str = ""

    @property
    def ceiling(self) -> float:
        """That of unbiased attackers in dB, by rounding where there is no noise; NaN where there is none.

        It is none where directions are free, and where signs follow and no noise comes before them: the figures before
        the signs hold, but say nothing about what signs leave.
        """
        if not math.isfinite(self.precision_ceiling) or (self.before_signs and not self.noisy):
            return math.nan
        return self.precision_ceiling

    @property
    def noisy(self) -> bool:
        """Whether noise leaves a floor of its own."""
        return math.isfinite(self.psnr_ceiling)

    @property
    def failed(self) -> bool:
        """Whether there is no bound."""
        return self.status in {"error", "not_applicable"}


class BoundRecord(Identified, BoundFacts):
    """The bound of one captured batch.

    Attributes:
        id: of the planned bound.
        setting: key of its setting.
        batch: number of the batch, from 0.
        capture: the batch as trials know it; see `capture_of`.
        max_seconds: within which it was computed.
    """

    setting: str
    batch: Annotated[int, Field(ge=0)]
    capture: str
    max_seconds: Number


@dataclass(frozen=True)
class BoundOutcome:
    """What came of a run of bounds.

    Attributes:
        planned: bounds of the audit.
        done: of these, how many have an outcome, be it that there is no bound.
        interrupted: whether Ctrl-C or SIGTERM ended the run.
    """

    planned: int
    done: int
    interrupted: bool = False


def facts_of(bound: "LeakageBound", defenses: "Sequence[Defense]" = ()) -> BoundFacts:
    """The figures of a bound, of an update behind these defenses, as plain data."""
    plain = {name: getattr(bound, name) for name in BoundFacts.model_fields if hasattr(bound, name)}
    signs = any(isinstance(defense, Sign) for defense in defenses)
    smooth = math.isfinite(bound.fisher_trace) and all(isinstance(defense, _SMOOTH) for defense in defenses)
    own = {"prior": bound.prior or "", "smooth": smooth, "before_signs": signs, "spread": _spread(bound)}
    return BoundFacts.model_validate({**plain, **own})


def _spread(bound: "LeakageBound") -> float:
    """Of a sum of independent normal errors of variances `1 / s^2` along the directions."""
    if bound.status != "bounded":
        return math.nan
    variances = (bound.singular_values / bound.singular_values.min()).double() ** -2
    return float(math.sqrt(2) * variances.norm() / variances.sum())


def read_bounds(folder: Path) -> tuple[BoundRecord, ...]:
    """The bounds that a folder holds; a later line of a bound replaces an earlier one, and a torn line is left out.

    Returns:
        One record for each bound.

    Raises:
        BadInput: when the file cannot be read, or a line other than the last is damaged.
    """
    return newest_records(folder / FILE, BoundRecord, "a bound")


def run_bounds(
    planned: "Sequence[PlannedBound]",
    folder: Path,
    *,
    retry_errors: bool = False,
    threads: int = 1,
    notify: Callable[[int, int], None] | None = None,
) -> BoundOutcome:
    """Compute the bounds that the folder does not hold yet, one after the other.

    One that was cut down to its leading part is computed again once it may take longer.

    Args:
        planned: every bound of the audit.
        folder: of the audit.
        retry_errors: compute those again that raised an exception.
        threads: of torch.
        notify: told how many are done, and of how many.

    Returns:
        How many have an outcome now.

    Raises:
        BadInput: when the folder cannot be written, another run writes to it, or it holds damaged lines.
    """
    from gradleak.threads import torch_threads

    interrupts = Interrupts()
    with exclusive(folder):
        known = {record.id: record for record in read_bounds(folder)}

        def outcome(*, interrupted: bool = False) -> BoundOutcome:
            return BoundOutcome(len(planned), sum(one.id in known for one in planned), interrupted)

        try:
            with torch_threads(threads), interrupts.caught():
                for place, one in enumerate(planned):
                    if notify is not None:
                        notify(place, len(planned))
                    if not _wanted(known.get(one.id), one, retry_errors=retry_errors):
                        continue
                    record = _computed(one)
                    with interrupts.held_back():
                        append_lines(folder / FILE, record.model_dump_json().encode() + b"\n")
                        known[record.id] = record
        except KeyboardInterrupt:
            return outcome(interrupted=True)
    return outcome()


def _wanted(before: BoundRecord | None, one: "PlannedBound", *, retry_errors: bool) -> bool:
    if before is None:
        return True
    if before.status == "partial":
        return one.max_seconds > before.max_seconds
    return before.status == "error" and retry_errors


def _computed(one: "PlannedBound") -> BoundRecord:
    from gradleak.audits.building import build
    from gradleak.audits.summarizing import capture_key

    base = {
        "id": one.id,
        "setting": one.setting,
        "batch": one.batch,
        "capture": capture_key(one.trial),
        "max_seconds": one.max_seconds,
    }
    began = time.perf_counter()
    try:
        trial = build(one.trial)
    except BadInput as error:
        return BoundRecord.model_validate({**base, "status": "error", "message": "; ".join(error.problems)})
    try:
        found = facts_of(_bound(trial, one), trial.defenses)
    except BadInput as error:
        found = BoundFacts(status="not_applicable", message="; ".join(error.problems))
    # The model may be foreign code. Whatever it raises, the other settings have their bound.
    except Exception as error:  # noqa: BLE001
        found = BoundFacts(status="error", message=f"{type(error).__name__}: {error}")
    return BoundRecord.model_validate({**base, **found.model_dump(), "seconds": time.perf_counter() - began})


def _bound(trial: "Trial", one: "PlannedBound") -> "LeakageBound":
    from gradleak.bounds import leakage_bound

    return leakage_bound(
        trial.task,
        trial.inputs,
        trial.targets,
        client=trial.client,
        defenses=trial.defenses,
        # Attackers with and without the labels share a setting, and what holds with them holds without.
        labels="known",
        prior=_prior(trial, one.prior),
        seed=trial.seed,
        max_seconds=one.max_seconds,
    )


def _prior(trial: "Trial", name: str) -> "PriorName | None":
    """That of the spec; where there is none of photographs, that of smooth images, which may be none too."""
    from gradleak.bounds.photograph_prior import photograph_problems

    if name == "none":
        return None
    photographs = name == "photographs" and not photograph_problems(trial.task.space, trial.inputs)
    return "photographs" if photographs else "smoothness"
