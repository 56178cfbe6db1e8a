"""Leakage against accuracy: what each setting leaks, what it costs, and which one to take.

Leakage is that of the strongest attack on the setting, by the share of captured batches that leaked. Among equals it is
the one that knows the defenses, and then the one of which fewer trials ended before they reproduced the update: that
one has shown more. An attacker who knows less can be luckier, so the blind one is judged too.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gradleak.audits.ceilings import Ceiling
from gradleak.audits.prices import PriceRecord
from gradleak.audits.pricing_keys import setting_key
from gradleak.audits.setting_words import family, setting_label
from gradleak.audits.stopping import bound_chance
from gradleak.audits.summary import Group, Leak, leak_at

DEFAULT_BELOW = 0.2
"""Largest upper end of the interval of the leak rate that counts as stopped where no limit is declared."""

State = Literal["stops", "bounded", "leaks", "open"]
"""Shown to stop the attacks, shown by its bound to stop those of its class, shown to leak, or nothing of these."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Point:
    """One setting.

    Attributes:
        key: of the setting.
        label: client, batch size and defenses in words, as far as settings differ.
        defended: whether there are defenses.
        judged: the strongest attack.
        leak: its leaks at the threshold.
        state: what its trials show; a rate below the limit counts only up to the upper end of its interval, with every
            trial counted as a leak whose attack neither succeeded nor reproduced the update. Where they show nothing,
            what its bound shows.
        adaptive: leaks of the strongest attack that knows the defenses; None if there is none in the audit.
        blind: the same of those that do not.
        accuracy: mean test accuracy over seeds with Student's interval, in [0, 1].
        price: accuracy that is lost against the same client and batch size without defenses, seed by seed.
        seeds: trainings with an accuracy.
        test_examples: on which it was measured.
        trouble: why there is no accuracy, or not of all seeds; empty if there is.
        bound: PSNR in dB that no unbiased attack can pass, the median of a few batches, where one is known.
        bound_ends: the lowest and the highest of these.
        prior_bound: the highest of the ceilings with the prior, in dB; NaN for none.
        bound_chance: how often the best attacker who knows no more than that prior reaches the threshold; see
            `stopping.bound_chance`.
        bound_trouble: why there is no bound, in a few words; empty if there is, or none was asked for.
        dominated: label of a setting that leaks no more and is as accurate, and better in one of them, by point
            estimates; empty if there is none.
        clearly: whether some such setting is better beyond the intervals in at least one of the two.
    """

    key: str
    label: str
    defended: bool
    judged: Group
    leak: Leak
    state: State
    adaptive: Leak | None
    blind: Leak | None
    accuracy: Interval = NOTHING
    price: Interval = NOTHING
    seeds: int = 0
    test_examples: int = 0
    trouble: str = ""
    bound: float | None = None
    bound_ends: tuple[float, float] | None = None
    bound_trouble: str = ""
    prior_bound: float = math.nan
    bound_chance: float = math.nan
    dominated: str = ""
    clearly: bool = False

    @property
    def psnr(self) -> Interval:
        """Median PSNR of the judged attack with its interval."""
        return Interval(self.judged.psnr.median, *self.judged.psnr_interval)

    @property
    def leakage(self) -> Interval:
        """The same of the figure of merit: PSNR of images, token accuracy of texts."""
        return Interval(self.judged.leakage.median, *self.judged.leakage_interval)


@dataclass(frozen=True)
class Frontier:
    """The settings of one model and data set.

    Attributes:
        title: model and data.
        threshold: PSNR in dB, or token accuracy, from which an image or a text counts as reconstructed.
        below: what the upper end of the leak rate must not reach.
        points: in the order of the audit.
        recommendation: in words, first the answer, then what it rests on.
    """

    title: str
    threshold: float
    below: float
    points: tuple[Point, ...]
    recommendation: tuple[str, ...]


def frontiers_of(
    groups: Sequence[Group],
    prices: Sequence[PriceRecord],
    *,
    threshold: float,
    below: float | None = None,
    ceilings: Mapping[str, Ceiling] | None = None,
) -> tuple[Frontier, ...]:
    """The frontier of each model and data set.

    Args:
        groups: of a summary.
        prices: of its settings.
        threshold: PSNR in dB, a declared one.
        below: the declared limit of the leak rate; None for the usual one.
        ceilings: what bounds say about settings, by key; None for none.

    Returns:
        Frontiers in the order of the groups.
    """
    from gradleak.audits.recommending import recommendation

    limit = DEFAULT_BELOW if below is None else below
    families: dict[str, list[Group]] = {}
    for group in groups:
        families.setdefault(family(group), []).append(group)
    found: list[Frontier] = []
    for title, members in families.items():
        points = with_dominated(_points(members, prices, threshold, limit, ceilings or {}))
        found.append(Frontier(title, threshold, limit, points, recommendation(points, threshold, limit)))
    return tuple(found)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean with Student's 95 % interval; without ends for fewer than two values.

    Args:
        values: finite.

    Returns:
        NaN without any value.
    """
    if len(values) < 2:
        return Interval(values[0] if values else math.nan, math.nan, math.nan)
    from scipy.stats import t  # slow to import

    mean = statistics.fmean(values)
    reach = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach)


def with_dominated(points: Sequence[Point]) -> tuple[Point, ...]:
    """Mark every setting for which another is no worse in both and better in one.

    What an inconclusive point would show is not known, so it dominates nothing but other inconclusive ones.

    Returns:
        The points in the same order.
    """
    marked: list[Point] = []
    for point in points:
        better = [other for other in points if _dominates(other, point)]
        clear = [other for other in better if _clearly(other, point)]
        best = (clear or better or [None])[0]
        marked.append(point if best is None else replace(point, dominated=best.label, clearly=bool(clear)))
    return tuple(marked)


def _dominates(other: Point, point: Point) -> bool:
    """By point estimates; False where one is missing."""
    if other.state == "open" and point.state != "open":
        return False
    leaks, accuracies = (other.leak.beyond.share, point.leak.beyond.share), (other.accuracy.value, point.accuracy.value)
    no_worse = leaks[0] <= leaks[1] and accuracies[0] >= accuracies[1]
    return no_worse and (leaks[0] < leaks[1] or accuracies[0] > accuracies[1])


def _clearly(other: Point, point: Point) -> bool:
    """Whether intervals are apart in what the other is better in; ends that are NaN are apart from nothing."""
    return other.leak.at_most < point.leak.beyond.low or other.accuracy.low > point.accuracy.high


# ---- points ------------------------------------------------------------------------------------------------------


def _points(
    groups: Sequence[Group],
    prices: Sequence[PriceRecord],
    threshold: float,
    below: float,
    ceilings: Mapping[str, Ceiling],
) -> tuple[Point, ...]:
    by_setting: dict[str, list[Group]] = {}
    for group in groups:
        by_setting.setdefault(setting_key(group.settings), []).append(group)
    firsts = [members[0] for members in by_setting.values()]
    of_setting = {key: [one for one in prices if key in one.settings] for key in by_setting}
    plain = {_place(own): key for key, own in zip(by_setting, firsts, strict=True) if not own.defenses}
    points: list[Point] = []
    for (key, members), own in zip(by_setting.items(), firsts, strict=True):
        judged = strongest(members, threshold)
        known = [member for member in members if _adaptive(member)]
        blind = [member for member in members if not _adaptive(member)]
        accuracies = _accuracies(of_setting[key])
        reference = _accuracies(of_setting.get(plain.get(_place(own), ""), ()))
        lost = [reference[seed] - value for seed, value in accuracies.items() if seed in reference]
        leak, ceiling = leak_at(judged.leaks, threshold), ceilings.get(key)
        chance = bound_chance(ceiling, threshold, own.batch_size)
        points.append(
            Point(
                key,
                setting_label(own, firsts),
                bool(own.defenses),
                judged,
                leak,
                state_of(leak, below, chance),
                leak_at(strongest(known, threshold).leaks, threshold) if known else None,
                leak_at(strongest(blind, threshold).leaks, threshold) if blind else None,
                _within(mean_interval(list(accuracies.values()))),
                mean_interval(lost) if own.defenses else NOTHING,
                len(accuracies),
                max((one.test_examples for one in of_setting[key]), default=0),
                _trouble(of_setting[key]),
                *_bound(ceiling),
                math.nan if ceiling is None else ceiling.prior_psnr.most,
                chance,
            )
        )
    return tuple(points)


def state_of(leak: Leak, below: float, chance: float = math.nan) -> State:
    """What trials and the bound show at a limit of the leak rate.

    Args:
        leak: of the strongest attack.
        below: the limit.
        chance: of the best attacker of the bound's class; NaN where the bound says nothing.

    Returns:
        A leak that was seen counts for more than any bound.
    """
    if leak.beyond.trials and leak.at_most < below:
        return "stops"
    if leak.beyond.successes:
        return "leaks"
    return "bounded" if chance < below else "open"


def strongest(groups: Sequence[Group], threshold: float) -> Group:
    """The attack that is judged, among those on one setting."""

    def strength(group: Group) -> tuple[float, bool, int]:
        leak = leak_at(group.leaks, threshold)
        share = leak.beyond.share
        return (-1.0 if math.isnan(share) else share, _adaptive(group), -leak.unsettled)

    return max(groups, key=strength)


def _adaptive(group: Group) -> bool:
    return group.settings.get("threat.defense_known", True) is True


def _place(group: Group) -> tuple[str, str]:
    """What a setting and its undefended twin share."""
    client = {name: value for name, value in group.settings.items() if name.startswith("client.")}
    return repr(sorted(client.items(), key=str)), str(group.batch_size)


def _bound(ceiling: Ceiling | None) -> tuple[float | None, tuple[float, float] | None, str]:
    if ceiling is None:
        return None, None, ""
    found = ceiling.psnr
    if math.isnan(found.median):
        return None, None, ceiling.trouble
    return found.median, (found.least, found.most), ""


def _accuracies(prices: Sequence[PriceRecord]) -> dict[int, float]:
    """By seed; empty if a training diverged, because a mean of those that did not would flatter the setting."""
    if any(one.status in {"diverged", "error"} for one in prices):
        return {}
    return {one.seed: one.accuracy for one in prices if one.status == "finished"}


def _within(found: Interval) -> Interval:
    """An interval of shares; NaN stays."""
    if math.isnan(found.low):
        return found
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0))


def _trouble(prices: Sequence[PriceRecord]) -> str:
    if not prices:
        return "not trained yet"
    diverged = sum(one.status == "diverged" for one in prices)
    if diverged:
        return f"training diverged in {diverged} of {len(prices)}"
    bad = [one for one in prices if one.status in {"error", "not_applicable"}]
    return bad[0].message if bad else ""
