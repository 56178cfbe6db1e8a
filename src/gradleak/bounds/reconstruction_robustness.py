"""Reconstruction robustness: how often any attacker at all can succeed against differentially private training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradleak.bounds.blow_up import (
    gaussian_blow_up,
    known_participation_blow_up,
    privacy_losses,
    simulated_blow_up,
)
from gradleak.bounds.privacy_routes import Accounts, accounts, approximate_dp_bound, rdp_bound, zcdp_bound
from gradleak.bounds.robustness_terms import ADJACENCY, assumptions, prior_problems, setting_problems
from gradleak.clients import DPSGD
from gradleak.errors import refuse
from gradleak.seeds import stage_generator

FULL_BATCH = "full batch, closed form"
KNOWN_PARTICIPATION = "known participation, closed form"
SIMULATED = "blow-up function, Monte Carlo"
RENYI = "Renyi differential privacy"
CONCENTRATED = "zero-concentrated differential privacy, full batch"
APPROXIMATE = "(epsilon, delta)-differential privacy"


@dataclass(frozen=True)
class ReconstructionRobustness:
    """An upper bound on the probability with which any attacker reconstructs a record.

    A mechanism is (eta, gamma)-reconstruction robust for a prior if no attacker comes within eta of a record from that
    prior with a probability above gamma (Balle, Cherubin, Hayes 2022, definition 2). `bound` is gamma.

    Attributes:
        bound: the smallest of `routes`: at most this share of reconstructions succeeds.
        route: where `bound` comes from.
        interval: of the blow-up function, which is the best bound that its theorem gives; a point where it has a
            closed form. Its upper end is what is certified.
        confidence: probability with which `interval` contains the blow-up function; 1 for a closed form.
        routes: every bound that is valid here, by the name of its route.
        prior: kappa, the success rate of the best guess without any update.
        noise_multiplier: standard deviation of the noise in units of the clipping norm.
        sampling_rate: q.
        steps: T.
        epsilon: of (epsilon, delta)-differential privacy; NaN where no accountant is installed.
        delta: of the same.
        accountant: whose epsilon it is.
        adjacency: which data sets are neighbors, for all of this.
        assumptions: under which the bound holds, in words.
    """

    bound: float
    route: str
    interval: tuple[float, float]
    confidence: float
    routes: Mapping[str, float]
    prior: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    epsilon: float
    delta: float
    accountant: str
    adjacency: str
    assumptions: tuple[str, ...]


def reconstruction_robustness(
    prior: float,
    *,
    noise_multiplier: float,
    steps: int,
    sampling_rate: float = 1.0,
    participation_known: bool = False,
    delta: float = 1e-5,
    draws: int = 100_000,
    confidence: float = 0.99,
    seed: int = 0,
) -> ReconstructionRobustness:
    """Bound the success of every attacker, also one who knows all other records and every noisy step.

    For full batches `Phi(Phi^-1(kappa) + sqrt(T) / sigma)`; for Poisson sampling the upper end of the simulated blow-up
    function (Hayes, Mahloujifar, Balle 2023, theorem 2 and algorithm 1), or another valid route where that is smaller.

    Args:
        prior: kappa in (0, 1), the success rate of the best guess without any update.
        noise_multiplier: sigma, 0, 1e-8 to 1e8, or infinity; the noise has the standard deviation sigma C.
        steps: T, at least 1, which the attacker sees.
        sampling_rate: q in (0, 1], with which the record takes part in a step; 1 for full batches, and together with
            `steps` as the number of epochs for batches that are shuffled rather than sampled.
        participation_known: whether the attacker may learn in which steps the record took part.
        delta: in (0, 1), for `epsilon`.
        draws: of the simulation, at least 1000; 5 to 10 seconds for 1e5 draws of 1000 steps on one core.
        confidence: of the simulation's interval, in (0, 1).
        seed: of the simulation.

    Returns:
        The strongest of the valid bounds, with its route and assumptions.

    Raises:
        BadInput: when anything is out of range.

    >>> found = reconstruction_robustness(0.1, noise_multiplier=5.0, steps=10)
    >>> round(found.bound, 4), found.route
    (0.2581, 'full batch, closed form')
    """
    return robustness_curve(
        [prior],
        noise_multiplier=noise_multiplier,
        steps=steps,
        sampling_rate=sampling_rate,
        participation_known=participation_known,
        delta=delta,
        draws=draws,
        confidence=confidence,
        seed=seed,
    )[0]


def robustness_curve(
    priors: Sequence[float],
    *,
    noise_multiplier: float,
    steps: int,
    sampling_rate: float = 1.0,
    participation_known: bool = False,
    delta: float = 1e-5,
    draws: int = 100_000,
    confidence: float = 0.99,
    seed: int = 0,
) -> tuple[ReconstructionRobustness, ...]:
    """`reconstruction_robustness` at several prior hit rates from one simulation.

    Args:
        priors: kappa in (0, 1) each; every interval holds by itself.
        noise_multiplier: as there; so are the others.
        steps: T.
        sampling_rate: q.
        participation_known: whether the attacker may learn in which steps the record took part.
        delta: for `epsilon`.
        draws: of the simulation.
        confidence: of each interval.
        seed: of the simulation.

    Returns:
        One result for each prior.

    Raises:
        BadInput: when anything is out of range.
    """
    problems = setting_problems(noise_multiplier, sampling_rate, steps, delta, draws, confidence)
    refuse(prior_problems(priors) + problems)
    # Who knows when the record took part faces no sampling: epsilon is that of taking part always.
    account = accounts(noise_multiplier, 1.0 if participation_known else sampling_rate, steps, delta)
    simulated = None
    if sampling_rate < 1 and 0 < noise_multiplier < math.inf and not participation_known:
        generator = stage_generator(seed, "bounds/reconstruction_robustness")
        losses = privacy_losses(noise_multiplier, sampling_rate, steps, draws, generator)
        simulated = [(blow_up.low, blow_up.high) for blow_up in simulated_blow_up(priors, losses, confidence)]
    found: list[ReconstructionRobustness] = []
    for index, prior in enumerate(priors):
        routes = _closed_routes(prior, noise_multiplier, sampling_rate, steps) | _accounted_routes(prior, account)
        exact = routes[FULL_BATCH if sampling_rate == 1 else KNOWN_PARTICIPATION]
        interval = (exact, exact) if simulated is None else simulated[index]
        if simulated is not None:
            routes[SIMULATED] = interval[1]
        route = min(routes, key=lambda name: routes[name])
        found.append(
            ReconstructionRobustness(
                # No bound lies below what is guessed without an update; rounding may.
                bound=max(prior, routes[route]),
                route=route,
                interval=interval,
                confidence=1.0 if simulated is None else confidence,
                routes=routes,
                prior=prior,
                noise_multiplier=noise_multiplier,
                sampling_rate=sampling_rate,
                steps=steps,
                epsilon=account.epsilon,
                delta=delta,
                accountant=account.accountant,
                adjacency=ADJACENCY,
                assumptions=assumptions(sampling_rate, participation_known),
            )
        )
    return tuple(found)


def client_robustness(
    client: DPSGD,
    prior: float,
    *,
    steps: int,
    delta: float = 1e-5,
    draws: int = 100_000,
    confidence: float = 0.99,
    seed: int = 0,
) -> ReconstructionRobustness:
    """`reconstruction_robustness` of a DP-SGD client.

    A sampled batch whose size is not fixed by `expected_batch_size` divides the sum, and so may tell whether the record
    took part: the bound then is the one for known participation.

    Args:
        client: whose noise multiplier and sampling rate count.
        prior: kappa in (0, 1).
        steps: T, at least 1.
        delta: in (0, 1), for `epsilon`.
        draws: of the simulation, at least 1000.
        confidence: of the simulation's interval, in (0, 1).
        seed: of the simulation.

    Returns:
        The strongest of the valid bounds, with its route and assumptions.

    Raises:
        BadInput: when anything is out of range.
    """
    return reconstruction_robustness(
        prior,
        noise_multiplier=client.noise_multiplier,
        steps=steps,
        sampling_rate=client.sampling_rate,
        participation_known=client.sampling_rate < 1 and client.expected_batch_size is None,
        delta=delta,
        draws=draws,
        confidence=confidence,
        seed=seed,
    )


def _closed_routes(prior: float, noise_multiplier: float, sampling_rate: float, steps: int) -> dict[str, float]:
    """What holds whatever the attacker learns about the sampling."""
    rho = math.inf if noise_multiplier == 0 else steps / (2 * noise_multiplier**2)
    routes = {
        FULL_BATCH: gaussian_blow_up(prior, noise_multiplier, steps),
        CONCENTRATED: zcdp_bound(prior, rho),
    }
    if sampling_rate < 1:
        routes[KNOWN_PARTICIPATION] = known_participation_blow_up(prior, noise_multiplier, sampling_rate, steps)
    return routes


def _accounted_routes(prior: float, account: Accounts) -> dict[str, float]:
    routes: dict[str, float] = {}
    if account.orders:
        routes[RENYI] = rdp_bound(prior, account.orders, account.divergences)
    if account.pairs:
        routes[APPROXIMATE] = min(approximate_dp_bound(prior, epsilon, delta) for epsilon, delta in account.pairs)
    return routes
