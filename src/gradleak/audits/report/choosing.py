"""Which trials a report shows in pictures: all of a few, else some drawn at random and the extremes."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradleak.audits.store import TrialRecord, capture_of

MOST_SHOWN = 60
"""Up to so many trials all of them are shown."""

DRAWN_CARDS = 36
"""Beyond, captured batches are drawn until their trials are about so many."""

MOST_IMAGES = 4
"""Largest number of images of one batch that a card shows."""

MOST_STRIPS = 12
"""Largest number of trials whose course is shown step by step."""


@dataclass(frozen=True)
class Shown:
    """Trials with pictures.

    Attributes:
        drawn: in paired order: the same batch by every attack, then the next batch.
        highest: of each attack the trial with the best reconstruction, where not all trials are shown.
        lowest: of each attack the trial with the worst.
        everything: whether all trials are among `drawn`.
    """

    drawn: tuple[TrialRecord, ...]
    highest: tuple[TrialRecord, ...] = ()
    lowest: tuple[TrialRecord, ...] = ()
    everything: bool = True


def choose(records: Sequence[TrialRecord]) -> Shown:
    """Choose by a draw that depends on nothing but the number of captured batches, never on a score.

    Args:
        records: of one store.

    Returns:
        What is shown.
    """
    batches: dict[str, list[TrialRecord]] = {}
    for record in records:
        batches.setdefault(_place(record), []).append(record)
    # Cards of one data set and one size side by side, and there in the order of the audit.
    keys = sorted(batches, key=lambda key: (batches[key][0].data, batches[key][0].batch_size))
    if len(records) <= MOST_SHOWN:
        return Shown(tuple(record for key in keys for record in batches[key]))
    order = [keys[position] for position in np.random.default_rng(0).permutation(len(keys))]
    kept: set[str] = set()
    cards = 0
    for key in order:
        if cards and cards + len(batches[key]) > DRAWN_CARDS:
            break
        kept.add(key)
        cards += min(len(batches[key]), DRAWN_CARDS)
    drawn = [record for key in keys if key in kept for record in batches[key][:DRAWN_CARDS]]
    extremes = [_extremes(records, attack) for attack in dict.fromkeys(record.attack for record in records)]
    pairs = [pair for pair in extremes if pair is not None]
    return Shown(tuple(drawn), tuple(high for high, _ in pairs), tuple(low for _, low in pairs), everything=False)


def _place(record: TrialRecord) -> str:
    """The captured batch within its data set."""
    return json.dumps([record.data, record.batch_size, capture_of(record)])


def _extremes(records: Sequence[TrialRecord], attack: str) -> tuple[TrialRecord, TrialRecord] | None:
    scored = [(best, record) for record in records if record.attack == attack if not math.isnan(best := _best(record))]
    if not scored:
        return None
    return max(scored, key=lambda pair: pair[0])[1], min(scored, key=lambda pair: pair[0])[1]


def _best(record: TrialRecord) -> float:
    return max((value for value in record.leakage if not math.isnan(value)), default=math.nan)
