"""From stored records to the figures of a report."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from gradleak.audits.merits import PSNR, Merit
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
    Spread,
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
        thresholds: at which success rates are given: PSNR in dB, or token accuracy; two usual ones for a kind of data
            that can reach none of them.

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
    merit = first.merit
    thresholds = merit.thresholds(thresholds)
    found = [record.leakage for record in members]
    pooled = [value for values in found for value in values]
    clusters = [position for position, values in enumerate(found) for _ in values]
    median = bootstrap_median(pooled, clusters, seed=0)
    interval, none = (median.low, median.high), (math.nan, math.nan)
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
        psnr=spread_of(_pooled(members, lambda record: record.numbers("psnr"))),
        psnr_interval=interval if merit == PSNR else none,
        ssim=spread_of(_pooled(members, lambda record: record.numbers("ssim"))),
        correlation=spread_of(_pooled(members, lambda record: record.numbers("correlation"))),
        leaks=leaks_of(
            found, thresholds, list(map(_chance, members)), [record.status == "converged" for record in members]
        ),
        targets_correct=_targets(members),
        evaluations=_median([float(record.evaluations) for record in members]),
        seconds=_median([record.seconds for record in members]),
        training_steps=_median([_training_steps(record) for record in members]),
        baselines=_baselines(members, thresholds),
        differences=tuple(_difference(members, others) for others in beside),
        score=merit.score,
        scores=_text_spreads(merit, lambda score: _pooled(members, lambda record: record.numbers(score))),
        score_interval=none if merit == PSNR else interval,
        exact=_pooled(members, lambda record: record.numbers("exact")).count(1.0),
    )


def leaks_of(
    found: Sequence[Sequence[float]],
    thresholds: Sequence[float],
    chance: Sequence[Sequence[float]] | None = None,
    reproduced: Sequence[bool] | None = None,
) -> tuple[Leak, ...]:
    """How many batches and images reached each threshold.

    Args:
        found: PSNR in dB, or token accuracy, of every image of every batch.
        thresholds: likewise.
        chance: of the best answer without the update, likewise; None for none.
        reproduced: whether the attack reproduced the update of each batch; None if there was no attack.

    Returns:
        One entry for each threshold.
    """
    if chance is None:
        chance = [[-math.inf] * len(values) for values in found]
    settled = [True] * len(found) if reproduced is None else reproduced
    leaks: list[Leak] = []
    for threshold in thresholds:
        reached = [[value >= threshold for value in values] for values in found]
        beyond = [
            any(value >= threshold and value > least for value, least in zip(values, others, strict=True))
            for values, others in zip(found, chance, strict=True)
        ]
        unsettled = sum(not leaked and not done for leaked, done in zip(beyond, settled, strict=True))
        leaks.append(
            Leak(
                threshold,
                batches=rate([any(row) for row in reached]),
                images=sum(map(sum, reached)),
                of=sum(map(len, found)),
                beyond=rate(beyond),
                unsettled=unsettled,
                at_most=wilson_interval(sum(beyond) + unsettled, len(beyond))[1],
            )
        )
    return tuple(leaks)


def _text_spreads(merit: Merit, column: Callable[[str], Sequence[float]]) -> dict[str, Spread]:
    """Every column that only texts have; none for images."""
    return {} if merit == PSNR else {name: spread_of(column(name)) for name, _, _ in merit.columns}


def _chance(record: TrialRecord) -> list[float]:
    """Figure of merit of the best answer without the update, for each image; minus infinity where none is scored."""
    columns = [_baseline_column(record, name, record.merit.score) for name in record.baselines]
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
            own, theirs = record.leakage, partner.leakage
            # Two exact answers are equally good, whatever infinity minus infinity may be.
            gaps += [0.0 if one == other else one - other for one, other in zip(own, theirs, strict=True)]
            clusters += [record.id] * len(own)
    found, score = bootstrap_median(gaps, clusters, seed=0), members[0].merit.score
    return Difference(members[0].attack, others[0].attack, found.median, found.low, found.high, found.clusters, score)


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
    merit = members[0].merit

    def column(name: str, metric: str) -> list[float]:
        return _pooled(members, lambda record: _baseline_column(record, name, metric))

    return tuple(
        BaselineRow(
            name,
            spread_of(column(name, "psnr")),
            spread_of(column(name, "ssim")),
            spread_of(column(name, "correlation")),
            leaks_of([_baseline_column(record, name, merit.score) for record in members], thresholds),
            merit.score,
            _text_spreads(merit, lambda score, name=name: column(name, score)),
            column(name, "exact").count(1.0),
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
        score, found = record.merit.score, record.leakage
        baselines = [_baseline_column(record, name, score) for name in record.baselines]
        for row, example in enumerate(record.examples):
            none = ImageLeak(record.data, example, math.nan, "", "", 0, math.nan, score)
            old = best.get((where, example), none)
            old = replace(old, baseline=spread_of([old.baseline, *(column[row] for column in baselines)]).worst)
            # An exact text takes the place of one with every token of the true one and some more.
            exact = bool(record.numbers("exact")[row] == 1.0)
            if not math.isnan(found[row]) and (not found[row] <= old.best or (exact and not old.exact)):
                old = replace(old, best=found[row], attack=record.attack, trial=record.id, row=row)
            best[where, example] = _with_words(replace(old, exact=old.exact or exact), record, row)
    return tuple(best.values())


def _with_words(leak: ImageLeak, record: TrialRecord, row: int) -> ImageLeak:
    """The same with what a trial found of a text's tokens in any order; images stay as they are."""
    if record.merit == PSNR:
        return leak
    chance = [_baseline_column(record, name, "token_recall")[row] for name in record.baselines]
    return replace(
        leak,
        recall=spread_of([leak.recall, record.numbers("token_recall")[row]]).worst,
        baseline_recall=spread_of([leak.baseline_recall, *chance]).worst,
    )


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
