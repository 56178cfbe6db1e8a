"""What a differential privacy guarantee by itself says about reconstruction, and the accountants that give guarantees.

The formulas are those of Balle, Cherubin, Hayes 2022, "Reconstructing Training Data with Informed Adversaries". kappa
is the prior hit rate, and each result an upper bound on the probability of success, at most 1.
"""

import math
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from gradleak.clients import DPSGD

# The PRV accountant's grid grows with epsilon and the root of the steps: this many points take it about four seconds.
_LARGEST_GRID = 2_000_000

# Up to here more than one delta is worth its time.
_SMALL_GRID = 500_000

# Beside the delta that is asked for: the best one lies somewhat below the bound that it gives.
_FURTHER_DELTAS = (1e-3, 1e-2, 0.1, 0.3)


@dataclass(frozen=True)
class Accounts:
    """What accountants say of one training; neighbors differ by a record that is added or removed.

    Attributes:
        epsilon: at the delta that was asked for; infinity without noise, NaN where no accountant is installed.
        accountant: whose epsilon it is, in words.
        pairs: (epsilon, delta) guarantees, those of the tightest accountant.
        orders: of Renyi differential privacy.
        divergences: epsilon at each of `orders`.
    """

    epsilon: float
    accountant: str
    pairs: tuple[tuple[float, float], ...] = ()
    orders: tuple[float, ...] = ()
    divergences: tuple[float, ...] = ()


def approximate_dp_bound(prior: float, epsilon: float, delta: float = 0.0) -> float:
    """`kappa e^epsilon + delta`, for (epsilon, delta)-differential privacy; pure without a delta.

    Returns:
        A probability.

    >>> round(approximate_dp_bound(0.1, 1.0, 1e-5), 4)
    0.2718
    """
    exponent = math.log(prior) + epsilon
    return 1.0 if exponent >= 0 else min(1.0, math.exp(exponent) + delta)


def rdp_bound(prior: float, orders: Sequence[float], divergences: Sequence[float]) -> float:
    """`min_alpha (kappa e^epsilon(alpha))^((alpha - 1) / alpha)`, for Renyi differential privacy.

    Args:
        prior: kappa.
        orders: alpha above 1 each.
        divergences: epsilon at each of them.

    Returns:
        A probability.

    >>> round(rdp_bound(0.1, [2.0], [0.5]), 4)
    0.406
    """
    exponents = ((a - 1) / a * (math.log(prior) + e) for a, e in zip(orders, divergences, strict=True))
    return math.exp(min(0.0, min(exponents, default=0.0)))


def zcdp_bound(prior: float, rho: float) -> float:
    """`exp(-(sqrt(log(1 / kappa)) - sqrt(rho))^2)`, for zero-concentrated differential privacy.

    T full-batch steps with noise multiplier sigma have `rho = T / (2 sigma^2)`. From rho = log(1 / kappa) on it is 1.

    Returns:
        A probability.

    >>> round(zcdp_bound(0.1, 0.2), 4)
    0.3181
    """
    surprise = -math.log(prior)
    return 1.0 if rho >= surprise else math.exp(-((math.sqrt(surprise) - math.sqrt(rho)) ** 2))


def accounts(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> Accounts:
    """Ask opacus' accountants.

    Epsilon is by the PRV accountant, or by the RDP accountant where the grid of the former would be too large: at a
    large epsilon over many steps (very roughly above 80 for 1000 steps, 20 for 10,000, 5 for 100,000).

    Args:
        noise_multiplier: at least 0, infinity included.
        sampling_rate: in (0, 1].
        steps: at least 1.
        delta: in (0, 1).

    Returns:
        Accounts without an epsilon, in which the accountant's name says so, where opacus is not installed.
    """
    if noise_multiplier == 0:
        return Accounts(math.inf, "none needed without noise")
    if math.isinf(noise_multiplier):
        return Accounts(0.0, "none needed with infinite noise", ((0.0, 0.0),))
    try:
        from opacus.accountants import RDPAccountant
        from opacus.accountants.analysis.rdp import compute_rdp
    except ImportError:
        return Accounts(math.nan, "none, since opacus is not installed: pip install 'gradleak[dp]'")
    client = DPSGD(clip=1.0, noise_multiplier=noise_multiplier, sampling_rate=sampling_rate)
    orders = [float(order) for order in RDPAccountant.DEFAULT_ALPHAS]
    with _without_order_warnings(), np.errstate(over="ignore"):
        divergences = np.asarray(
            compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=steps, orders=orders)
        ).tolist()
        coarse = client.epsilon(steps, delta, "rdp")
        deltas = sorted({delta, *_FURTHER_DELTAS})
        # As the accountant does: its grid reaches to an epsilon at a far smaller delta.
        reach = client.epsilon(steps, deltas[0] / 4000, "rdp") + 3
        points = 2 * reach / 0.01 * math.sqrt(steps * math.log(12_000 / deltas[0]) / 2)
        if points > _LARGEST_GRID:
            return Accounts(coarse, "RDP (opacus)", ((coarse, delta),), tuple(orders), tuple(divergences))
        tried = deltas if points <= _SMALL_GRID else [delta]
        pairs = tuple((client.epsilon(steps, each), each) for each in tried)
    epsilon = max(0.0, dict((each, value) for value, each in pairs)[delta])
    return Accounts(epsilon, "PRV (opacus)", pairs, tuple(orders), tuple(divergences))


@contextmanager
def _without_order_warnings() -> Generator[None]:
    """Opacus advises on the range of its orders, where any order at all gives a valid bound."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        yield
