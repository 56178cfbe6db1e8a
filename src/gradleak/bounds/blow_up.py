"""The blow-up function of noisy steps: how likely an event becomes once a private record takes part.

`B_kappa(mu, nu) = sup {mu[E] : nu[E] <= kappa}` with nu the distribution of what is sent without the record and mu with
it. Without: T independent values of N(0, sigma^2). With: their means are 1 in the steps in which the record takes part,
each with probability q by itself, and 0 in the others (Hayes, Mahloujifar, Balle 2023, "Bounding Training Data
Reconstruction in DP-SGD"). Lengths are in units of the clipping norm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

# Largest number of normal variables drawn at once: 32 MB of float64, whatever the number of steps.
_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class BlowUp:
    """A simulated value of the blow-up function: an estimate, and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


def gaussian_blow_up(prior: float, noise_multiplier: float, steps: float) -> float:
    """The blow-up function where the record takes part in every step: `Phi(Phi^-1(kappa) + sqrt(T) / sigma)`.

    Returns:
        A probability; 1 without noise, `prior` with infinite noise.
    """
    from scipy.special import ndtr, ndtri  # scipy is slow to import

    shift = math.inf if noise_multiplier == 0 else math.sqrt(steps) / noise_multiplier
    return float(ndtr(ndtri(prior) + shift))


def known_participation_blow_up(prior: float, noise_multiplier: float, sampling_rate: float, steps: int) -> float:
    """The mean of the full-batch blow-up over how often the record takes part, Binomial(T, q).

    It bounds attackers who are told in which steps the record took part, hence also those who are not: the blow-up
    function is convex in mu, and mu is the mixture of what is sent over those choices. Without noise it equals the
    blow-up function: `1 - (1 - kappa) (1 - q)^T`.

    Returns:
        A probability.
    """
    from scipy.special import ndtr, ndtri
    from scipy.stats import binom

    times = np.arange(steps + 1)
    weights = binom.pmf(times, steps, sampling_rate)
    shifts = np.where(times > 0, math.inf, 0.0) if noise_multiplier == 0 else np.sqrt(times) / noise_multiplier
    # The weights add up to 1 only up to rounding.
    return min(1.0, float(weights @ ndtr(ndtri(prior) + shifts) + max(0.0, 1.0 - weights.sum())))


def privacy_losses(
    noise_multiplier: float, sampling_rate: float, steps: int, draws: int, generator: torch.Generator
) -> np.ndarray:
    """Draw from mu the logarithm of the density of mu over that of nu.

    Returns:
        `[draws]`, `sum_t log(1 - q + q exp((2 w_t - 1) / (2 sigma^2)))` each, without its exponentials' overflow.
    """
    losses = torch.empty(draws, dtype=torch.float64)
    size = max(1, _DRAWN_AT_ONCE // steps)
    absent = math.log1p(-sampling_rate) if sampling_rate < 1 else -math.inf
    for start in range(0, draws, size):
        shape = (min(size, draws - start), steps)
        w = torch.randn(shape, generator=generator, dtype=torch.float64).mul_(noise_multiplier)
        if sampling_rate < 1:
            w += torch.rand(shape, generator=generator, dtype=torch.float64) < sampling_rate
        else:
            w += 1
        present = w.sub_(0.5).div_(noise_multiplier**2).add_(math.log(sampling_rate))
        each = torch.logaddexp(present, torch.tensor(absent, dtype=torch.float64)) if sampling_rate < 1 else present
        losses[start : start + len(w)] = each.sum(dim=1)
    return losses.numpy()


def simulated_blow_up(priors: Sequence[float], losses: np.ndarray, confidence: float) -> tuple[BlowUp, ...]:
    """The blow-up function at each of `priors` from privacy losses drawn under mu, each with its own interval.

    Upper end: `B_kappa = min_c {kappa e^c + E_mu[max(0, 1 - e^(c - L))]}` with L the privacy loss, so any c gives an
    upper bound; c is chosen on one draw in four, and the expectation bounded on the others. Lower end: any c with
    `nu[L > c] = E_mu[e^-L 1{L > c}] <= kappa` gives `mu[L > c]`. All means are of independent values in [0, 1] and
    bounded by Chernoff's inequality with relative entropy (Hoeffding 1963, theorem 1), which holds at every number of
    draws. Drawing under mu alone lets small priors need no more draws than large ones.

    Args:
        priors: kappa in (0, 1) each.
        losses: `[draws]` of `privacy_losses`, independent.
        confidence: probability in (0, 1) with which an interval contains the value.

    Returns:
        One for each prior.
    """
    pilot, main = losses[: len(losses) // 4], losses[len(losses) // 4 :]
    pilot, whole = np.sort(pilot), np.sort(losses)
    error = 1 - confidence
    found: list[BlowUp] = []
    for prior in priors:
        high = min(1.0, max(prior, _upper_end(prior, pilot, main, error / 2)))
        low = max(prior, _lower_end(prior, pilot, main, error / 4))
        c = _best_threshold(prior, whole)
        estimate = prior * math.exp(c) + float(_excess(whole, c).mean())
        found.append(BlowUp(min(max(estimate, low), high), low, high))
    return tuple(found)


def _upper_end(prior: float, pilot: np.ndarray, main: np.ndarray, error: float) -> float:
    c = _best_threshold(prior, pilot)
    return prior * math.exp(c) + _largest_mean(float(_excess(main, c).mean()), len(main), error)


def _lower_end(prior: float, pilot: np.ndarray, main: np.ndarray, error: float) -> float:
    """Zero where the draws do not show that the event is rare enough under nu."""

    def largest_under_nu(losses: np.ndarray, c: float) -> float:
        tilted = np.exp(np.minimum(c - losses, 0.0)) * (losses > c)
        # e^-c overflows only where the answer is useless anyway.
        return math.exp(min(-c, 700.0)) * _largest_mean(float(tilted.mean()), len(losses), error)

    # The lowest order statistic whose event the pilot, with its wider interval, already shows to be rare enough.
    left, right = 0, len(pilot) - 1
    while left < right:
        middle = (left + right) // 2
        if largest_under_nu(pilot, float(pilot[middle])) <= prior:
            right = middle
        else:
            left = middle + 1
    c = float(pilot[right])
    if largest_under_nu(main, c) > prior:
        return 0.0
    absent = float((main <= c).mean())
    return 1.0 - _largest_mean(absent, len(main), error)


def _best_threshold(prior: float, ordered: np.ndarray) -> float:
    """The c that minimizes `kappa e^c + mean(max(0, 1 - e^(c - L)))` over ascending losses: where nu[L > c] = kappa."""
    falling = ordered[::-1]
    # More than -log(kappa) is never best, since nu[L > c] <= e^-c; the cut keeps the exponentials finite.
    under_nu = np.cumsum(np.exp(np.minimum(-falling, 700.0))) / len(falling)
    reached = int(np.searchsorted(under_nu, prior))
    return float(min(falling[min(reached, len(falling) - 1)], -math.log(prior)))


def _excess(losses: np.ndarray, c: float) -> np.ndarray:
    return -np.expm1(np.minimum(c - losses, 0.0))


def _largest_mean(mean: float, count: int, error: float) -> float:
    """The largest p with `KL(mean || p) <= log(1 / error) / count`, to rounding from above."""
    allowed = math.log(1 / error) / count
    inside, outside = mean, 1.0
    for _ in range(100):
        middle = (inside + outside) / 2
        if _relative_entropy(mean, middle) <= allowed:
            inside = middle
        else:
            outside = middle
    return outside


def _relative_entropy(m: float, p: float) -> float:
    """Between two coins, of probabilities m and p in [0, 1], in nats."""
    first = m * math.log(m / p) if m > 0 else 0.0
    if m >= 1:
        return first
    return first + (math.inf if p >= 1 else (1 - m) * math.log((1 - m) / (1 - p)))
