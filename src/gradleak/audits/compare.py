"""What changed between two audits: settings that only one has, scores of those that both have, and the machines."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradleak.audits.records import TrialRecord
from gradleak.audits.summarizing import capture_of, settings_of, summarize
from gradleak.audits.summary import Group, Level
from gradleak.scoring.statistics import bootstrap_median


@dataclass(frozen=True)
class Change:
    """A group of trials that both audits have.

    Attributes:
        before: its figures in the first audit.
        after: its figures in the second.
        median: median over shared private examples of the change in PSNR, in dB, or in token accuracy; NaN without
            shared examples.
        low: lower end of the 95 % interval, from resampling captured batches.
        high: upper end.
        captures: batches that both audits captured.
        identical: whether every shared trial has the same scores, to the last bit.
    """

    before: Group
    after: Group
    median: float
    low: float
    high: float
    captures: int
    identical: bool

    @property
    def direction(self) -> str:
        """`more`, `less` or `same` leakage; `same` where the interval holds zero or nothing is shared."""
        if math.isnan(self.low) or self.low <= 0 <= self.high:
            return "same"
        return "more" if self.low > 0 else "less"


@dataclass(frozen=True)
class Comparison:
    """Two audits side by side.

    Attributes:
        levels: the verdicts of both.
        changes: groups that both have.
        only_before: groups of the first alone.
        only_after: groups of the second alone.
        environments: facts on versions and machines that differ, by name, with all values of both.
    """

    levels: tuple[Level, Level]
    changes: tuple[Change, ...]
    only_before: tuple[Group, ...]
    only_after: tuple[Group, ...]
    environments: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]


def compare(before: Sequence[TrialRecord], after: Sequence[TrialRecord]) -> Comparison:
    """Compare two audits, group by group and, where both captured the same batches, image by image.

    Args:
        before: the records of one.
        after: the records of the other.

    Returns:
        What changed.
    """
    summaries = summarize(before), summarize(after)
    own, other = ({_key(group.settings): group for group in summary.groups} for summary in summaries)
    trials = [_by_group(records) for records in (before, after)]
    return Comparison(
        levels=(summaries[0].level, summaries[1].level),
        changes=tuple(
            _change(group, other[key], trials[0][key], trials[1][key]) for key, group in own.items() if key in other
        ),
        only_before=tuple(group for key, group in own.items() if key not in other),
        only_after=tuple(group for key, group in other.items() if key not in own),
        environments=_environments(before, after),
    )


def _key(settings: Mapping[str, object]) -> str:
    # Another release and changed code are what one compares across, so they make no other group.
    kept = {name: value for name, value in settings.items() if name != "gradleak" and not name.startswith("code.")}
    return json.dumps(kept, sort_keys=True)


def _by_group(records: Sequence[TrialRecord]) -> dict[str, dict[str, TrialRecord]]:
    """Trials by captured batch, by group."""
    found: dict[str, dict[str, TrialRecord]] = {}
    for record in records:
        found.setdefault(_key(settings_of(record)), {})[capture_of(record)] = record
    return found


def _change(before: Group, after: Group, own: Mapping[str, TrialRecord], other: Mapping[str, TrialRecord]) -> Change:
    gaps: list[float] = []
    clusters: list[str] = []
    identical = True
    for capture in own.keys() & other.keys():
        pairs = list(zip(own[capture].leakage, other[capture].leakage, strict=True))
        identical &= all(one == two or (math.isnan(one) and math.isnan(two)) for one, two in pairs)
        gaps += [0.0 if one == two else two - one for one, two in pairs]
        clusters += [capture] * len(pairs)
    order = sorted(range(len(gaps)), key=clusters.__getitem__)  # the same draws whatever the order of sets
    found = bootstrap_median([gaps[k] for k in order], [clusters[k] for k in order], seed=0)
    return Change(before, after, found.median, found.low, found.high, len(set(clusters)), identical and bool(gaps))


def _environments(
    before: Sequence[TrialRecord], after: Sequence[TrialRecord]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Facts that differ; commands aside."""
    found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    names = dict.fromkeys(name for record in (*before, *after) for name in record.environment)
    for name in names:
        if name != "command":
            values = [tuple(sorted({str(r.environment.get(name)) for r in records})) for records in (before, after)]
            if values[0] != values[1]:
                found[name] = (values[0], values[1])
    return found
