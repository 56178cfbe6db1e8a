"""What the bounds of an audit say about each setting, beside what its attacks reached on the very same batches."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradleak.audits.bounds import BoundRecord
from gradleak.audits.pricing_keys import setting_key
from gradleak.audits.records import TrialRecord
from gradleak.audits.setting_words import family, setting_label
from gradleak.audits.summarizing import capture_of, settings_of
from gradleak.audits.summary import Group

_UNKNOWN_SPREAD = 0.25
"""Relative spread of a squared error over draws of the noise, where only a part of the spectrum is known."""


@dataclass(frozen=True)
class Span:
    """Median, smallest and largest of a few values; NaN without any."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Reach:
    """What one attack came to on the batches that have a bound.

    Attributes:
        attack: its name.
        knows: whether it knows the defenses.
        psnr: dB of the mean squared error over a batch, the median over these batches.
        batches: how many.
        above: on how many of those with a ceiling it came closer than any unbiased attacker can.
        above_prior: on how many it came closer than the ceiling with the prior, which holds on average over inputs.
        ahead: dB above the ceiling in the median, batch by batch, negative below; NaN without a ceiling.
        ahead_prior: the same of the ceiling with the prior.
        luck: probability that the best unbiased attacker comes as close or closer on these batches, since a ceiling is
            of the mean over draws of the noise; NaN without a ceiling.
    """

    attack: str
    knows: bool
    psnr: float
    batches: int
    above: int
    above_prior: int
    ahead: float
    ahead_prior: float
    luck: float


@dataclass(frozen=True)
class Ceiling:
    """The bounds of one setting.

    Attributes:
        setting: its key.
        label: in words, as far as settings differ.
        batches: captured batches that were looked at.
        psnr: dB, of those of which an unbiased estimate exists; by rounding where there is no noise.
        noisy: whether it is noise that bounds, and not rounding alone.
        partial: whether the leading part of the spectrum stands for the whole, so that ceilings lie above the true
            ones.
        prior: what an attacker is taken to know of inputs; empty for no second ceiling.
        prior_psnr: dB, with that prior.
        prior_spread: the largest relative spread of the squared error under that prior; NaN where one is not known.
        smooth: whether noise is on an update that no defense makes jump, in every batch.
        free: directions that leave no trace in the update.
        unknowns: input values of a batch.
        recoverable: share of directions that can be known to 8 bits.
        without: batches of which no unbiased estimate exists.
        failed: batches without a bound.
        trouble: why there is no ceiling, in a few words; empty if there is one.
        message: what the computation said where it failed.
        reached: every attack on these batches, the strongest first.
        assumptions: sentences.
        seconds: median of the time taken.
    """

    setting: str
    label: str
    batches: int
    psnr: Span
    noisy: bool
    partial: bool
    prior: str
    prior_psnr: Span
    prior_spread: float
    smooth: bool
    free: Span
    unknowns: int
    recoverable: float
    without: int
    failed: int
    trouble: str
    message: str
    reached: tuple[Reach, ...]
    assumptions: tuple[str, ...]
    seconds: float


def ceilings_of(
    groups: Sequence[Group], records: Sequence[TrialRecord], bounds: Sequence[BoundRecord]
) -> dict[str, Ceiling]:
    """The ceiling of each setting of which a bound was computed.

    Args:
        groups: of the summary of `records`.
        records: trials.
        bounds: as the folder holds them; of one batch of a setting the last counts.

    Returns:
        By key, in the order of the groups.
    """
    batches: dict[str, dict[int, BoundRecord]] = {}
    for bound in bounds:
        batches.setdefault(bound.setting, {})[bound.batch] = bound
    firsts: dict[str, Group] = {}
    for group in groups:
        firsts.setdefault(setting_key(group.settings), group)
    keys = [key for key in firsts if key in batches]
    trials: dict[str, list[TrialRecord]] = {}
    for record in records if keys else ():
        trials.setdefault(setting_key(settings_of(record)), []).append(record)
    labels = _labels(firsts)
    return {
        key: _ceiling(key, labels[key], [batches[key][batch] for batch in sorted(batches[key])], trials[key])
        for key in keys
    }


def span_of(values: Sequence[float]) -> Span:
    """Median, smallest and largest; NaN is left out."""
    known = [value for value in values if not math.isnan(value)]
    return Span(statistics.median(known), min(known), max(known)) if known else Span(math.nan, math.nan, math.nan)


def _labels(firsts: Mapping[str, Group]) -> dict[str, str]:
    families: dict[str, list[Group]] = {}
    for group in firsts.values():
        families.setdefault(family(group), []).append(group)
    return {
        key: ("" if len(families) == 1 else f"{family(group)}: ") + setting_label(group, families[family(group)])
        for key, group in firsts.items()
    }


def _ceiling(key: str, label: str, bounds: Sequence[BoundRecord], trials: Sequence[TrialRecord]) -> Ceiling:
    made = [bound for bound in bounds if not bound.failed]
    without = [bound for bound in made if bound.status in {"free_directions", "nothing"}]
    limited = [bound for bound in made if not math.isnan(bound.ceiling)]
    return Ceiling(
        setting=key,
        label=label,
        batches=len(bounds),
        psnr=span_of([bound.ceiling for bound in limited]),
        noisy=any(bound.noisy for bound in limited),
        partial=any(bound.status == "partial" for bound in made),
        prior=next((bound.prior for bound in made if bound.prior), ""),
        prior_psnr=span_of([bound.prior_psnr_ceiling for bound in made]),
        prior_spread=_largest([bound.prior_spread for bound in made]),
        smooth=bool(made) and all(bound.smooth for bound in made),
        free=span_of([float(bound.free_directions) for bound in made]),
        unknowns=max((bound.unknowns for bound in made), default=0),
        recoverable=span_of([bound.recoverable for bound in made]).median,
        without=len(without),
        failed=len(bounds) - len(made),
        trouble="" if limited else _trouble(made, bounds),
        message=next((bound.message for bound in bounds if bound.failed), ""),
        reached=_reached(bounds, trials),
        assumptions=made[0].assumptions if made else (),
        seconds=statistics.median(bound.seconds for bound in bounds),
    )


def _trouble(made: Sequence[BoundRecord], bounds: Sequence[BoundRecord]) -> str:
    if not made:
        return "cannot be computed" if any(bound.status == "error" for bound in bounds) else "not differentiable"
    if all(bound.status == "nothing" for bound in made):
        return "no trace of the inputs"
    if not any(bound.free_directions for bound in made):
        return "signs have no derivative"
    free = max(bound.free_directions for bound in made)
    return f"{free} of {made[0].unknowns} directions free"


def _reached(bounds: Sequence[BoundRecord], trials: Sequence[TrialRecord]) -> tuple[Reach, ...]:
    by_capture = {bound.capture: bound for bound in bounds}
    attacks: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if capture_of(trial) in by_capture:
            attacks.setdefault(json.dumps(settings_of(trial), sort_keys=True, default=str), []).append(trial)
    found: list[Reach] = []
    for members in attacks.values():
        pairs = [(_batch_psnr(trial), by_capture[capture_of(trial)]) for trial in members]
        scored = [(psnr, bound) for psnr, bound in pairs if not math.isnan(psnr)]
        limited = [(psnr - bound.ceiling, bound) for psnr, bound in scored if not math.isnan(bound.ceiling)]
        gaps = [gap for gap, _ in limited]
        found.append(
            Reach(
                attack=members[0].attack,
                knows=settings_of(members[0]).get("threat.defense_known", True) is True,
                psnr=span_of([psnr for psnr, _ in scored]).median,
                batches=len(members),
                above=sum(gap > 0 for gap in gaps),
                above_prior=sum(psnr > bound.prior_psnr_ceiling for psnr, bound in scored),
                ahead=span_of(gaps).median,
                ahead_prior=span_of([psnr - bound.prior_psnr_ceiling for psnr, bound in scored]).median,
                luck=luck([(gap, bound.spread) for gap, bound in limited]),
            )
        )
    return tuple(sorted(found, key=lambda one: -math.inf if math.isnan(one.psnr) else one.psnr, reverse=True))


def luck(gaps: Sequence[tuple[float, float]]) -> float:
    """Probability that the best attacker comes so close on all of some batches.

    Under a gamma law of the mean ratio of squared error to floor, of mean 1 and the variance it has.

    Args:
        gaps: dB above the ceiling with the relative spread, of each batch.

    Returns:
        NaN for none.
    """
    if not gaps:
        return math.nan
    from scipy.special import gammainc  # slow to import

    ratio = statistics.fmean(10 ** (-gap / 10) for gap, _ in gaps)
    spreads = [_UNKNOWN_SPREAD if math.isnan(spread) else spread for _, spread in gaps]
    shape = len(gaps) ** 2 / sum(spread**2 for spread in spreads)
    return float(gammainc(shape, shape * ratio))


def _largest(values: Sequence[float]) -> float:
    return max(values) if values and not any(map(math.isnan, values)) else math.nan


def _batch_psnr(trial: TrialRecord) -> float:
    """PSNR of the mean squared error over a batch, as bounds have it; NaN if an image is not scored."""
    values = trial.numbers("psnr")
    if not values or any(math.isnan(value) for value in values):
        return math.nan
    mse = statistics.fmean(10 ** (-value / 10) for value in values)
    return -10 * math.log10(mse) if mse else math.inf
