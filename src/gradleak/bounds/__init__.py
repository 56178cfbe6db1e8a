"""Bounds: what nobody of a stated class can do better than. They see the private batch, and attacks never see them."""

from gradleak.bounds.information import FisherInformation
from gradleak.bounds.layer_ranks import LayerRank, layer_ranks
from gradleak.bounds.leakage_bound import LeakageBound, leakage_bound
from gradleak.bounds.prior_hit_rate import PriorHitRate, estimate_prior_hit_rate, uniform_prior_hit_rate
from gradleak.bounds.reconstruction_robustness import (
    ReconstructionRobustness,
    client_robustness,
    reconstruction_robustness,
    robustness_curve,
)

__all__ = [
    "FisherInformation",
    "LayerRank",
    "LeakageBound",
    "PriorHitRate",
    "ReconstructionRobustness",
    "client_robustness",
    "estimate_prior_hit_rate",
    "layer_ranks",
    "leakage_bound",
    "reconstruction_robustness",
    "robustness_curve",
    "uniform_prior_hit_rate",
]
