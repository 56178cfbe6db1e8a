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
    Difference,
    Group,
    ImageLeak,
    Leak,
    Rate,
    Summary,
    spread_of,
)
from gradleak.scoring.statistics import bootstrap_median, quantiles, wilson_interval

# What a replicate changes: which examples, their contents, the draw of the network. All else makes another group.
_REPLICATE = frozenset({"examples", "targets", "seed", "model.seed", "client.seed", "batch", "data.digest"})


def summarize(records: Sequence[TrialRecord], thresholds: Sequence[float] = (RECOGNIZABLE_DB, CLOSE_DB)) -> Summary:
    """The summary of stored trials, groups in the order in which they first appear.

    Args:
        records: of one store.
        thresholds: PSNR in dB at which success rates are given.

    Returns:
        Figures; NaN where nothing was scored.
    """
    grouped: dict[str, list[TrialRecord]] = {}
    cells: dict[str, list[str]] = {}
    for record in records:
        settings = settings_of(record)
        key = json.dumps(settings, sort_keys=True)
        if key not in grouped:
            cells.setdefault(json.dumps(cell_of(settings), sort_keys=True), []).append(key)
        grouped.setdefault(key, []).append(record)
    beside = {key: [grouped[other] for other in keys if other != key] for keys in cells.values() for key in keys}
    return Summary(
        groups=tuple(_group(members, beside[key], thresholds) for key, members in grouped.items()),
        images=_images(records),
        statuses=_counts(record.status for record in records),
    )


def settings_of(record: TrialRecord) -> dict[str, object]:
    """What tells groups of trials apart, by dotted path; what a replicate changes is left out."""
    return {**spec_settings(record.spec), "batch_size": record.batch_size}


def spec_settings(spec: Mapping[str, object]) -> dict[str, object]:
    """The same of a trial that is planned."""
    flat: dict[str, object] = {}
    _flatten("", spec, flat)
    return {**flat, "batch_size": len(component_list(spec.get("examples")))}


def setting_of(settings: Mapping[str, object]) -> dict[str, object]:
    """What the owner of the data chooses: all but the attacker, who is not asked."""
    return {name: value for name, value in cell_of(settings).items() if not name.startswith("threat.")}


def cell_of(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings without those of the attack: what all attacks in a cell of the grid share."""
    return {name: value for name, value in settings.items() if not name.startswith(("attack.", "code.attack"))}


def _flatten(path: str, value: object, flat: dict[str, object]) -> None:
    if isinstance(value, Mapping):
        for key, entry in mapping(value).items():
            where = f"{path}.{key}" if path else key
            if where not in _REPLICATE:
                _flatten(where, entry, flat)
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in component_list(value)):
        for position, entry in enumerate(component_list(value)):
            _flatten(f"{path}.{position}", entry, flat)
    else:
        flat[path] = value


def _group(
    members: Sequence[TrialRecord], beside: Sequence[Sequence[TrialRecord]], thresholds: Sequence[float]
) -> Group:
    first = members[0]
    psnr = [record.numbers("psnr") for record in members]
    pooled = [value for values in psnr for value in values]
    clusters = [position for position, values in enumerate(psnr) for _ in values]
    interval = bootstrap_median(pooled, clusters, seed=0)
    return Group(
        data=first.data,
        attack=first.attack,
        batch_size=first.batch_size,
        client=str(mapping(first.spec.get("client")).get("name", "?")),
        defenses=", ".join(map(settings_text, component_list(first.spec.get("defenses")))),
        threat=first.threat,
        settings=settings_of(first),
        trials=len(members),
        images=len(pooled),
        statuses=_counts(record.status for record in members),
        psnr=spread_of(pooled),
        psnr_interval=(interval.low, interval.high),
        ssim=spread_of(_pooled(members, lambda record: record.numbers("ssim"))),
        correlation=spread_of(_pooled(members, lambda record: record.numbers("correlation"))),
        leaks=leaks_of(
            psnr, thresholds, list(map(_chance, members)), [record.status == "converged" for record in members]
        ),
        targets_correct=_targets(members),
        evaluations=_median([float(record.evaluations) for record in members]),
        seconds=_median([record.seconds for record in members]),
        training_steps=_median([_training_steps(record) for record in members]),
        baselines=_baselines(members, thresholds),
        differences=tuple(_difference(members, others) for others in beside),
    )


def leaks_of(
    psnr: Sequence[Sequence[float]],
    thresholds: Sequence[float],
    chance: Sequence[Sequence[float]] | None = None,
    reproduced: Sequence[bool] | None = None,
) -> tuple[Leak, ...]:
    """How many batches and images reached each threshold.

    Args:
        psnr: dB, of every image of every batch.
        thresholds: dB.
        chance: dB of the best answer without the update, likewise; None for none.
        reproduced: whether the attack reproduced the update of each batch; None if there was no attack.

    Returns:
        One entry for each threshold.
    """
    if chance is None:
        chance = [[-math.inf] * len(values) for values in psnr]
    settled = [True] * len(psnr) if reproduced is None else reproduced
    found: list[Leak] = []
    for threshold in thresholds:
        reached = [[value >= threshold for value in values] for values in psnr]
        beyond = [
            any(value >= threshold and value > least for value, least in zip(values, others, strict=True))
            for values, others in zip(psnr, chance, strict=True)
        ]
        unsettled = sum(not leaked and not done for leaked, done in zip(beyond, settled, strict=True))
        found.append(
            Leak(
                threshold,
                batches=rate([any(row) for row in reached]),
                images=sum(map(sum, reached)),
                of=sum(map(len, psnr)),
                beyond=rate(beyond),
                unsettled=unsettled,
                at_most=wilson_interval(sum(beyond) + unsettled, len(beyond))[1],
            )
        )
    return tuple(found)


def _chance(record: TrialRecord) -> list[float]:
    """PSNR of the best answer without the update, for each image; minus infinity where none is scored."""
    columns = [_baseline_column(record, name, "psnr") for name in record.baselines]
    return [
        max((column[row] for column in columns if not math.isnan(column[row])), default=-math.inf)
        for row in range(record.batch_size)
    ]


def _difference(members: Sequence[TrialRecord], others: Sequence[TrialRecord]) -> Difference:
    """Image by image on the batches that both attacked."""
    partners = {capture_of(record): record for record in others}
    gaps: list[float] = []
    clusters: list[str] = []
    for record in members:
        partner = partners.get(capture_of(record))
        if partner is not None:
            own, theirs = record.numbers("psnr"), partner.numbers("psnr")
            # Two exact answers are equally good, whatever infinity minus infinity may be.
            gaps += [0.0 if one == other else one - other for one, other in zip(own, theirs, strict=True)]
            clusters += [record.id] * len(own)
    found = bootstrap_median(gaps, clusters, seed=0)
    return Difference(members[0].attack, others[0].attack, found.median, found.low, found.high, found.clusters)


def capture_of(record: TrialRecord) -> str:
    """The captured batch of a trial, equal for all attacks on it."""
    return capture_key(record.spec)


def capture_key(spec: Mapping[str, object]) -> str:
    """The same of a trial that is planned."""
    return json.dumps([spec.get("seed"), component_list(spec.get("examples")), spec.get("targets")])


def _training_steps(record: TrialRecord) -> float:
    return record.seconds / record.step_seconds if record.step_seconds > 0 else math.nan


def _baselines(members: Sequence[TrialRecord], thresholds: Sequence[float]) -> tuple[BaselineRow, ...]:
    names = list(dict.fromkeys(name for record in members for name in record.baselines))

    def column(name: str, metric: str) -> list[float]:
        return _pooled(members, lambda record: _baseline_column(record, name, metric))

    return tuple(
        BaselineRow(
            name,
            spread_of(column(name, "psnr")),
            spread_of(column(name, "ssim")),
            spread_of(column(name, "correlation")),
            leaks_of([_baseline_column(record, name, "psnr") for record in members], thresholds),
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
    return rate([bool(cell) for cell in cells if cell is not None])


def _pooled(members: Sequence[TrialRecord], column: Callable[[TrialRecord], Sequence[float]]) -> list[float]:
    return [value for record in members for value in column(record)]


def _median(values: Sequence[float]) -> float:
    return quantiles(values, (0.5,)).values[0]


def rate(outcomes: Sequence[bool]) -> Rate:
    """Successes of trials with the 95 % Wilson interval."""
    low, high = wilson_interval(sum(outcomes), len(outcomes))
    return Rate(sum(outcomes), len(outcomes), low, high)


def _counts(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
