import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradleak.errors import BadInput
from gradleak.scoring.statistics import bootstrap_median, quantiles, wilson_interval

Z95 = 1.959963984540054


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (1, 1), (50, 400)])
def test_wilson_against_its_formula(successes: int, trials: int):
    rate = successes / trials
    center = (rate + Z95**2 / (2 * trials)) / (1 + Z95**2 / trials)
    half = Z95 / (1 + Z95**2 / trials) * math.sqrt(rate * (1 - rate) / trials + Z95**2 / (4 * trials**2))
    assert wilson_interval(successes, trials) == pytest.approx((max(center - half, 0), min(center + half, 1)), abs=1e-9)


def test_wilson_solves_the_score_equation():
    low, high = wilson_interval(7, 25)
    for end in (low, high):
        assert abs(7 / 25 - end) / math.sqrt(end * (1 - end) / 25) == pytest.approx(Z95, rel=1e-6)


def test_no_leak_in_ten_trials_does_not_exclude_a_quarter():
    low, high = wilson_interval(0, 10)
    assert low == 0.0
    assert high == pytest.approx(Z95**2 / (10 + Z95**2))


def test_wilson_without_trials_is_nan():
    assert all(math.isnan(end) for end in wilson_interval(0, 0))


@pytest.mark.parametrize(("successes", "trials", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (0, -1, 0.95), (1, 2, 95.0)])
def test_wilson_refuses_bad_input(successes: int, trials: int, level: float):
    with pytest.raises(BadInput):
        wilson_interval(successes, trials, level)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0, 1))
def test_quantiles_against_numpy(values: list[float], level: float):
    found = quantiles(values, (level,))
    assert found.values[0] == pytest.approx(float(np.quantile(values, level)), abs=1e-9)
    assert (found.counted, found.excluded) == (len(values), 0)


def test_quantiles_count_nan_and_keep_infinities():
    found = quantiles(torch.tensor([math.nan, 20.0, math.inf, math.inf, math.nan]), (0.0, 0.5, 0.75, 1.0))
    assert found.values == (20.0, math.inf, math.inf, math.inf)
    assert (found.counted, found.excluded) == (3, 2)
    assert quantiles([-math.inf, 3.0], (0.5,)).values == (-math.inf,)


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_quantiles_of_nothing_are_nan(values: list[float]):
    found = quantiles(values, (0.5, 1.0))
    assert all(math.isnan(value) for value in found.values)
    assert found.counted == 0


def test_quantiles_refuse_levels_in_percent():
    with pytest.raises(BadInput, match="50"):
        quantiles([1.0], (50.0,))


def test_bootstrap_of_two_clusters_is_known_exactly():
    # Resamples of {0} and {10}: both 0 with probability 1/4, both 10 with 1/4, mixed with 1/2 (median 5).
    found = bootstrap_median([0.0, 10.0], ["a", "b"], seed=0, level=0.4, resamples=2000)
    assert (found.median, found.low, found.high) == (5.0, 5.0, 5.0)
    wide = bootstrap_median([0.0, 10.0], ["a", "b"], seed=0, level=0.6, resamples=2000)
    assert (wide.low, wide.high) == (0.0, 10.0)


def test_bootstrap_draws_clusters_and_not_values():
    # A hundred copies inside each of three clusters carry no more information than three values.
    values = [value for value in (0.0, 1.0, 2.0) for _ in range(100)]
    clusters = [cluster for cluster in "abc" for _ in range(100)]
    grouped = bootstrap_median(values, clusters, seed=0, resamples=500)
    assert (grouped.low, grouped.high) == (0.0, 2.0)
    assert (grouped.clusters, grouped.counted) == (3, 300)
    alone = bootstrap_median(values, range(300), seed=0, resamples=500)
    assert (alone.low, alone.high) == (1.0, 1.0)


def test_bootstrap_covers_the_true_median():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        found = bootstrap_median(generator.normal(size=40), range(40), seed=seed, level=0.9, resamples=200)
        hits += found.low <= 0.0 <= found.high
    low, high = wilson_interval(hits, 100, level=0.999)
    assert low <= 0.9 <= high


def test_bootstrap_is_seeded():
    values = np.random.default_rng(0).normal(size=30)
    first = bootstrap_median(values, range(30), seed=1, resamples=100)
    assert first == bootstrap_median(values, range(30), seed=1, resamples=100)
    assert first != bootstrap_median(values, range(30), seed=2, resamples=100)


@pytest.mark.parametrize(
    ("values", "clusters", "median"),
    [([], [], math.nan), ([3.0], ["a"], 3.0), ([1.0, 3.0], ["a", "a"], 2.0), ([1.0, math.nan], ["a", "b"], 1.0)],
)
def test_bootstrap_of_fewer_than_two_clusters_has_no_interval(values: list[float], clusters: list[str], median: float):
    found = bootstrap_median(values, clusters, seed=0)
    assert found.median == pytest.approx(median, nan_ok=True)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_bootstrap_excludes_and_counts_nan():
    found = bootstrap_median([math.nan, 1.0, 3.0, math.inf], "abcd", seed=0, resamples=200)
    assert (found.counted, found.excluded, found.clusters) == (3, 1, 3)
    assert found.median == 3.0
    assert (found.low, found.high) == (1.0, math.inf)


def test_bootstrap_refuses_all_bad_input_at_once():
    with pytest.raises(BadInput) as caught:
        bootstrap_median([1.0, 2.0], ["a"], seed=0, level=1.0, resamples=0)
    assert len(caught.value.problems) == 3
