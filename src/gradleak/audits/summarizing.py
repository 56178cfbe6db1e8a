"""From stored records to the figures of a report."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from gradleak.audits.records import Columns, TrialRecord, column_numbers, component_list, mapping, settings_text
from gradleak.audits.summary import (
    CLOSE_DB,
    RECOGNIZABLE_DB,
    BaselineRow,
    Group,
    ImageLeak,
    Rate,
    Summary,
    spread_of,
)
from gradleak.scoring.statistics import quantiles, wilson_interval


def summarize(records: Sequence[TrialRecord]) -> Summary:
    """The summary of stored trials, groups in the order in which they first appear.

    Args:
        records: of one store.

    Returns:
        Figures; NaN where nothing was scored.
    """
    grouped: dict[str, list[TrialRecord]] = {}
    for record in records:
        grouped.setdefault(_group_key(record), []).append(record)
    return Summary(
        groups=tuple(_group(members) for members in grouped.values()),
        images=_images(records),
        statuses=_counts(record.status for record in records),
    )


def _group_key(record: TrialRecord) -> str:
    """The spec without what a replicate changes."""
    kept = {key: value for key, value in record.spec.items() if key not in {"examples", "targets"}}
    return json.dumps([_without_seeds(kept), record.batch_size], sort_keys=True)


def _without_seeds(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_seeds(entry) for key, entry in mapping(value).items() if key != "seed"}
    return value


def _group(members: Sequence[TrialRecord]) -> Group:
    first = members[0]
    psnr = _pooled(members, lambda record: record.numbers("psnr"))
    return Group(
        data=first.data,
        attack=first.attack,
        batch_size=first.batch_size,
        client=str(mapping(first.spec.get("client")).get("name", "?")),
        defenses=", ".join(map(settings_text, component_list(first.spec.get("defenses")))),
        threat=first.threat,
        trials=len(members),
        images=len(psnr),
        statuses=_counts(record.status for record in members),
        psnr=spread_of(psnr),
        ssim=spread_of(_pooled(members, lambda record: record.numbers("ssim"))),
        correlation=spread_of(_pooled(members, lambda record: record.numbers("correlation"))),
        above_recognizable=_rate([value >= RECOGNIZABLE_DB for value in psnr]),
        above_close=_rate([value >= CLOSE_DB for value in psnr]),
        targets_correct=_targets(members),
        evaluations=_median([float(record.evaluations) for record in members]),
        seconds=_median([record.seconds for record in members]),
        baselines=_baselines(members),
    )


def _baselines(members: Sequence[TrialRecord]) -> tuple[BaselineRow, ...]:
    names = list(dict.fromkeys(name for record in members for name in record.baselines))

    def column(name: str, metric: str) -> list[float]:
        return _pooled(members, lambda record: _baseline_column(record, name, metric))

    return tuple(
        BaselineRow(
            name,
            spread_of(column(name, "psnr")),
            spread_of(column(name, "ssim")),
            spread_of(column(name, "correlation")),
            _rate([value >= CLOSE_DB for value in column(name, "psnr")]),
        )
        for name in names
    )


def _baseline_column(record: TrialRecord, name: str, metric: str) -> tuple[float, ...]:
    columns: Columns = record.baselines.get(name, {})
    return column_numbers(columns, metric, record.batch_size)


def _images(records: Sequence[TrialRecord]) -> tuple[ImageLeak, ...]:
    """The best reconstruction of every private example."""
    best: dict[tuple[str, int], ImageLeak] = {}
    for record in records:
        where = json.dumps(record.spec.get("data"), sort_keys=True)
        psnr = record.numbers("psnr")
        baselines = [_baseline_column(record, name, "psnr") for name in record.baselines]
        for row, example in enumerate(record.examples):
            old = best.get((where, example), ImageLeak(record.data, example, math.nan, "", "", 0, math.nan))
            baseline = spread_of([old.baseline_psnr, *(column[row] for column in baselines)]).worst
            if not math.isnan(psnr[row]) and not psnr[row] <= old.psnr:
                best[where, example] = ImageLeak(old.data, example, psnr[row], record.attack, record.id, row, baseline)
            else:
                best[where, example] = replace(old, baseline_psnr=baseline)
    return tuple(best.values())


def _targets(members: Sequence[TrialRecord]) -> Rate | None:
    if all(record.targets_given for record in members):
        return None
    cells = [cell for record in members for cell in record.scores.get("target_correct", ())]
    return _rate([bool(cell) for cell in cells if cell is not None])


def _pooled(members: Sequence[TrialRecord], column: Callable[[TrialRecord], Sequence[float]]) -> list[float]:
    return [value for record in members for value in column(record)]


def _median(values: Sequence[float]) -> float:
    return quantiles(values, (0.5,)).values[0]


def _rate(outcomes: Sequence[bool]) -> Rate:
    low, high = wilson_interval(sum(outcomes), len(outcomes))
    return Rate(sum(outcomes), len(outcomes), low, high)


def _counts(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
