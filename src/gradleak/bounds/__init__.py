"""Bounds: limits that hold for every attack of a stated class."""

from gradleak.bounds.prior_hit_rate import PriorHitRate, estimate_prior_hit_rate, uniform_prior_hit_rate
from gradleak.bounds.reconstruction_robustness import (
    ReconstructionRobustness,
    client_robustness,
    reconstruction_robustness,
    robustness_curve,
)

__all__ = [
    "PriorHitRate",
    "ReconstructionRobustness",
    "client_robustness",
    "estimate_prior_hit_rate",
    "reconstruction_robustness",
    "robustness_curve",
    "uniform_prior_hit_rate",
]
