"""Intervals and quantiles for tables of scores.

NaN marks what could not be scored: left out of the numbers, counted beside them. Infinite PSNR is the largest value.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gradleak.errors import refuse

Values = Sequence[float] | np.ndarray | Tensor


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of scores, in their units, with how many values were `counted` and how many NaN were `excluded`."""

    values: tuple[float, ...]
    counted: int
    excluded: int


@dataclass(frozen=True)
class MedianInterval:
    """A median with its interval, the clusters and values it rests on, and how many NaN were `excluded`."""

    median: float
    low: float
    high: float
    clusters: int
    counted: int
    excluded: int


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval for a rate in [0, 1] (Wilson 1927, JASA 22, 209-212).

    Returns:
        The lower and the upper end; both NaN without any trial.

    Raises:
        BadInput: when `successes` is not between 0 and `trials`, or `level` not between 0 and 1.
    """
    problems = _level_problems(level)
    if not 0 <= successes <= trials:
        problems.append(f"successes: expected 0 to trials ({trials}), got {successes}; count them among the trials")
    refuse(problems)
    if trials == 0:
        return math.nan, math.nan
    from scipy.stats import binomtest  # slow to import

    interval = binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def quantiles(values: Values, levels: Sequence[float]) -> Quantiles:
    """Linearly interpolated quantiles of `values` `[n]` at `levels` in [0, 1].

    Returns:
        One value for each level, NaN if nothing but NaN is given, and the counts.

    Raises:
        BadInput: when a level lies outside [0, 1].
    """
    refuse(f"levels: expected 0 to 1, got {level}; give 0.5 for the median" for level in levels if not 0 <= level <= 1)
    array = np.asarray(values, dtype=np.float64)
    kept = np.sort(array[~np.isnan(array)])
    return Quantiles(tuple(_quantile(kept, level) for level in levels), len(kept), len(array) - len(kept))


def bootstrap_median(
    values: Values, clusters: Sequence[Hashable], *, seed: int, level: float = 0.95, resamples: int = 2000
) -> MedianInterval:
    """Median of `values` `[n]` with a percentile interval from resampling whole clusters.

    Values that share a cluster (one network, one batch, one record) are not independent, so whole clusters are drawn.

    Returns:
        The median with its interval, which is NaN with fewer than two clusters: nothing shows the spread then.

    Raises:
        BadInput: when there is not one cluster for each value, or `level` or `resamples` is out of range.
    """
    array = np.asarray(values, dtype=np.float64)
    problems = _level_problems(level)
    if len(clusters) != len(array):
        problems.append(f"clusters: expected one for each of {len(array)} values, got {len(clusters)}; name them all")
    if resamples < 1:
        problems.append(f"resamples: expected at least 1, got {resamples}; give about 2000")
    refuse(problems)
    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(array.tolist(), clusters, strict=True):
        if not math.isnan(value):
            groups.setdefault(cluster, []).append(value)
    members = [np.array(group) for group in groups.values()]
    whole = quantiles(array, (0.5,))
    low = high = math.nan
    if len(members) >= 2:
        draws = np.random.default_rng(seed).integers(len(members), size=(resamples, len(members)))
        low, high = quantiles(_medians(members, draws), ((1 - level) / 2, (1 + level) / 2)).values
    return MedianInterval(whole.values[0], low, high, len(members), whole.counted, whole.excluded)


def _medians(members: Sequence[np.ndarray], draws: np.ndarray) -> list[float]:
    """Median of the pooled values of each draw of clusters `[resamples, clusters]`."""
    if len({len(member) for member in members}) > 1:
        return [_quantile(np.sort(np.concatenate([members[i] for i in draw])), 0.5) for draw in draws]
    # Clusters of one size, as a rule: all resamples at once, a hundred times as fast.
    pooled = np.sort(np.stack(members)[draws].reshape(len(draws), -1), axis=1)
    return [_quantile(row, 0.5) for row in pooled]


def _quantile(ordered: np.ndarray, level: float) -> float:
    """Quantile of sorted values; unlike numpy's it stays inf (not NaN) between two infinities."""
    if len(ordered) == 0:
        return math.nan
    position = level * (len(ordered) - 1)
    low, high = float(ordered[math.floor(position)]), float(ordered[math.ceil(position)])
    weight = position - math.floor(position)
    return low if low == high else (1.0 - weight) * low + weight * high


def _level_problems(level: float) -> list[str]:
    return [] if 0.0 < level < 1.0 else [f"level: expected a number between 0 and 1, got {level}; give 0.95"]
