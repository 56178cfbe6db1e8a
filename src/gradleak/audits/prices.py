"""Learning what settings cost: trainings in the folder of an audit, and one line of `prices.jsonl` for each.

Like trials they are kept as soon as they are there: a kill loses at most the steps since the last saved place of one
training, and a line that was torn is written again from what its training left behind.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field

from gradleak.audits.lines import Identified, append_lines, newest_records
from gradleak.audits.lock import exclusive
from gradleak.audits.records import Number

if TYPE_CHECKING:
    from gradleak.audits.pricing import PlannedPrice
    from gradleak.training.run import TrainProgress

FILE, FOLDER = "prices.jsonl", "prices"

PriceStatus = Literal["finished", "diverged", "error", "not_applicable"]


class PriceRecord(Identified):
    """What one training came to.

    Attributes:
        id: of the training.
        seed: its number, from 0.
        settings: keys of the settings whose price it is.
        status: `finished`; `diverged`: loss or weights were no finite numbers any more; `error`: an exception;
            `not_applicable`: this setting cannot be trained.
        accuracy: on the test data, in [0, 1]; NaN unless it is finished.
        test_examples: on how many.
        train_examples: from how many.
        epochs: passes over them.
        seconds: of the run that finished it.
        message: why it ended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    seed: Annotated[int, Field(ge=0)]
    settings: tuple[str, ...]
    status: PriceStatus
    accuracy: Number = math.nan
    test_examples: int = 0
    train_examples: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class PriceOutcome:
    """What came of a run of trainings.

    Attributes:
        planned: trainings of the audit.
        done: of these, how many have an outcome, be it that they diverged.
        interrupted: whether Ctrl-C or SIGTERM ended the run.
        out_of_time: whether `price.max_seconds` did.
    """

    planned: int
    done: int
    interrupted: bool = False
    out_of_time: bool = False


def read_prices(folder: Path) -> tuple[PriceRecord, ...]:
    """The prices that a folder holds; a later line of a training replaces an earlier one, and a torn line is left out.

    Returns:
        One record for each training.

    Raises:
        BadInput: when the file cannot be read, or a line other than the last is damaged.
    """
    return newest_records(folder / FILE, PriceRecord, "the outcome of a training")


def run_prices(
    planned: "Sequence[PlannedPrice]",
    folder: Path,
    *,
    max_seconds: float | None = None,
    retry_errors: bool = False,
    notify: "Callable[[TrainProgress], None] | None" = None,
) -> PriceOutcome:
    """Run the trainings that the folder does not hold yet, one after the other.

    Args:
        planned: every training of the audit.
        folder: of the audit.
        max_seconds: see `PriceSpec`.
        retry_errors: run those again that raised an exception.
        notify: told what happens.

    Returns:
        How many have an outcome now.

    Raises:
        BadInput: when the folder cannot be written, another run writes to it, or it holds damaged lines.
    """
    ends = math.inf if max_seconds is None else time.monotonic() + max_seconds
    with exclusive(folder):
        known = {record.id: record for record in read_prices(folder)}
        for one in planned:
            before = known.get(one.id)
            if retry_errors and before is not None and before.status == "error":
                before = None
            if before is not None and set(one.settings) <= set(before.settings):
                continue
            if before is None and time.monotonic() >= ends:
                return _outcome(planned, known, out_of_time=True)
            record = _moved(before, one) if before is not None else _trained(one, folder, ends, notify)
            if record is None:
                late = time.monotonic() >= ends
                return _outcome(planned, known, interrupted=not late, out_of_time=late)
            append_lines(folder / FILE, record.model_dump_json().encode() + b"\n")
            known[record.id] = record
    return _outcome(planned, known)


def _outcome(
    planned: "Sequence[PlannedPrice]",
    known: dict[str, PriceRecord],
    *,
    interrupted: bool = False,
    out_of_time: bool = False,
) -> PriceOutcome:
    return PriceOutcome(len(planned), sum(one.id in known for one in planned), interrupted, out_of_time)


def _moved(before: PriceRecord, one: "PlannedPrice") -> PriceRecord:
    """The outcome of a training that is the price of further settings now."""
    return before.model_copy(update={"settings": tuple(dict.fromkeys([*before.settings, *one.settings]))})


def _trained(
    one: "PlannedPrice", folder: Path, ends: float, notify: "Callable[[TrainProgress], None] | None"
) -> PriceRecord | None:
    """The outcome of a training; None if it was interrupted or is out of time, and can be gone on with."""
    from gradleak.training.checkpoints import read_checkpoint
    from gradleak.training.run import run_training

    if one.training is None:
        return PriceRecord(id=one.id, seed=one.seed, settings=one.settings, status="not_applicable", message=one.reason)

    def tell(progress: "TrainProgress") -> None:
        if notify is not None:
            notify(progress)
        if time.monotonic() >= ends and progress.unit < progress.last:
            raise KeyboardInterrupt  # as Ctrl-C does: the place is saved, and nothing is lost

    began = time.monotonic()
    base = {"id": one.id, "seed": one.seed, "settings": one.settings}
    try:
        outcome = run_training(one.training, folder / FOLDER / one.id, "What a setting costs.", tell)
        if outcome.status == "interrupted":
            return None
        if outcome.status == "diverged":
            return PriceRecord.model_validate({**base, "status": "diverged", "message": outcome.message})
        found = read_checkpoint(outcome.checkpoints[-1])
    except KeyboardInterrupt:
        return None
    # The model may be foreign code. Whatever it raises, the other settings have their price.
    except Exception as error:  # noqa: BLE001
        return PriceRecord.model_validate({**base, "status": "error", "message": f"{type(error).__name__}: {error}"})
    return PriceRecord.model_validate(
        {
            **base,
            "status": "finished",
            "accuracy": found.test.accuracy,
            "test_examples": found.test.examples,
            "train_examples": found.data.examples,
            "epochs": found.epochs,
            "seconds": time.monotonic() - began,
            "message": outcome.message,
        }
    )
