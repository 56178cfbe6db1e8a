"""The terms of a bound on reconstruction: what it assumes, and which settings it takes."""

import math
from collections.abc import Sequence

ADJACENCY = "one record added or removed (its clipped gradient moves the sum by at most the clipping norm C)"

# Beyond these nothing but rounding would differ from no noise at all and from infinite noise.
_LEAST_NOISE, _MOST_NOISE = 1e-8, 1e8


def assumptions(sampling_rate: float, participation_known: bool) -> tuple[str, ...]:
    """What the theorems ask for."""
    if sampling_rate == 1:
        sampling = "the record takes part in every step"
    elif participation_known:
        sampling = (
            "the record takes part in each step with probability q by itself, and the attacker may know in which it did"
        )
    else:
        sampling = (
            "every record takes part in each step with probability q by itself (Poisson sampling, no shuffling), and "
            "nothing but the noisy sums tells who did: the divisor is fixed (expected_batch_size)"
        )
    return (
        "the attacker knows all other records, the model and every noisy step, and no other release of the record",
        "the record was drawn from the prior, under which the best guess succeeds with the prior hit rate; a prior "
        "that is set too low makes the bound too low",
        sampling,
        "each step sends the sum of clipped gradients plus Gaussian noise, or what is computed from it; noise is exact",
        "neighbors: " + ADJACENCY + "; not one record replaced by another",
    )


def prior_problems(priors: Sequence[float]) -> list[str]:
    """What is wrong with prior hit rates, one line each."""
    if not priors:
        return ["prior: expected at least one hit rate, got none; give 1 / candidates for equally likely candidates"]
    return [
        f"prior: expected a number in (0, 1), got {prior}; give the success rate of the best guess without an update"
        for prior in priors
        if not 0 < prior < 1
    ]


def setting_problems(
    noise_multiplier: float, sampling_rate: float, steps: int, delta: float, draws: int, confidence: float
) -> list[str]:
    """What is wrong with everything but the priors, one line each."""
    problems: list[str] = []
    if not noise_multiplier >= 0:
        problems.append(f"noise_multiplier: expected at least 0, got {noise_multiplier}; 0 is none")
    elif not _LEAST_NOISE <= noise_multiplier <= _MOST_NOISE and noise_multiplier not in {0, math.inf}:
        problems.append(
            f"noise_multiplier: expected {_LEAST_NOISE} to {_MOST_NOISE}, 0 or infinity, got {noise_multiplier}; "
            "its square leaves the range of numbers"
        )
    if not 0 < sampling_rate <= 1:
        problems.append(f"sampling_rate: expected a number in (0, 1], got {sampling_rate}; 1 is full batches")
    if not steps >= 1 or steps != int(steps):
        problems.append(f"steps: expected a whole number of at least 1, got {steps}; count what the attacker sees")
    if not 0 < delta < 1:
        problems.append(f"delta: expected a number in (0, 1), got {delta}; 1e-5 is usual")
    if draws < 1000:
        problems.append(f"draws: expected at least 1000, got {draws}; 100000 is usual")
    if not 0 < confidence < 1:
        problems.append(f"confidence: expected a number in (0, 1), got {confidence}; 0.99 is usual")
    return problems
