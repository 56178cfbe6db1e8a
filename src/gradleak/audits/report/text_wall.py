"""The texts of a trial, true and recovered side by side, token by token.

A reader must see what differs without color: right tokens stand as they are, wrong ones are struck through, and a gap
stands where nothing was recovered.
"""

from dataclasses import dataclass

from gradleak.audits.report.choosing import MOST_IMAGES
from gradleak.audits.report.words import whole
from gradleak.audits.store import TOKEN_ACCURACY, Run, Store, Text, TrialRecord, compared

STEPS = 5
"""Moments of a course that are shown, the last one included."""


@dataclass(frozen=True)
class Moment:
    """A candidate on the way, with the evaluations until then in words."""

    caption: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class TextPair:
    """One private text and what the attack made of it.

    Attributes:
        example: position in the data.
        caption: its scores in words.
        level: `close`, `near` or `far`.
        truth: runs of the private text.
        recovered: runs of the recovered one; empty if nothing was.
        strip: how it came about.
    """

    example: int
    caption: str
    level: str
    truth: tuple[Run, ...]
    recovered: tuple[Run, ...]
    strip: tuple[Moment, ...]


@dataclass(frozen=True)
class TextCard:
    """One trial on texts; see `wall.Card`."""

    record: TrialRecord
    color: int
    pairs: tuple[TextPair, ...]
    missing: str = ""
    more: int = 0


def text_card(store: Store, record: TrialRecord, color: int) -> TextCard:
    """The card of a trial on texts.

    Args:
        store: holds the texts.
        record: the trial.
        color: number of its attack's color.

    Returns:
        Runs and words.
    """
    texts = store.texts(record)
    if texts is None:
        return TextCard(record, color, (), "The text file of this trial is not in the folder.")
    count = min(len(texts.truth), MOST_IMAGES)
    moments = _moments(len(texts.snapshots))
    pairs: list[TextPair] = []
    for row in range(count):
        truth = texts.truth[row]
        courses = [(texts.evaluations[moment], texts.snapshots[moment][row]) for moment in moments]
        pairs.append(_pair(record, row, truth, texts.recovered[row], courses))
    return TextCard(record, color, tuple(pairs), more=len(texts.truth) - count)


def _pair(record: TrialRecord, row: int, truth: Text, recovered: Text, course: list[tuple[int, Text]]) -> TextPair:
    left, right = compared(truth, recovered)
    accuracy = record.leakage[row] if row < record.batch_size else float("nan")
    exact = row < record.batch_size and record.numbers("exact")[row] == 1.0
    merit = TOKEN_ACCURACY
    level = "close" if exact or accuracy >= merit.close else "near" if accuracy >= merit.recognizable else "far"
    caption = "word for word" if exact else "nothing recovered" if accuracy != accuracy else merit.value(accuracy)
    strip = tuple(Moment(f"after {whole(count)}", compared(truth, text)[1]) for count, text in course)
    example = record.examples[row] if row < len(record.examples) else row
    nothing = accuracy != accuracy
    return TextPair(example, caption, level, left, () if nothing else right, strip)


def _moments(count: int) -> list[int]:
    """Positions of at most `STEPS` snapshots, from the first to the last."""
    return sorted({round(step * (count - 1) / (STEPS - 1)) for step in range(STEPS)}) if count > 1 else []
