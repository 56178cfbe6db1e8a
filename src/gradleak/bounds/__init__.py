"""Bounds: what nobody of a stated class can do better than. They see the private batch, and attacks never see them."""

from gradleak.bounds.bayesian import BayesianBound, van_trees
from gradleak.bounds.gaussian_prior import GaussianPrior, Prior, SmoothPrior, estimated_prior, smoothness_prior
from gradleak.bounds.identifiability import Identifiability, identifiability, pictures
from gradleak.bounds.information import FisherInformation
from gradleak.bounds.layer_ranks import LayerRank, layer_ranks
from gradleak.bounds.leakage_bound import LeakageBound, leakage_bound
from gradleak.bounds.photograph_prior import photograph_prior
from gradleak.bounds.prior_hit_rate import PriorHitRate, estimate_prior_hit_rate, uniform_prior_hit_rate
from gradleak.bounds.reconstruction_robustness import (
    ReconstructionRobustness,
    client_robustness,
    reconstruction_robustness,
    robustness_curve,
)
from gradleak.bounds.screening import Screening, screen

__all__ = [
    "BayesianBound",
    "FisherInformation",
    "GaussianPrior",
    "Identifiability",
    "LayerRank",
    "LeakageBound",
    "Prior",
    "PriorHitRate",
    "ReconstructionRobustness",
    "Screening",
    "SmoothPrior",
    "client_robustness",
    "estimate_prior_hit_rate",
    "estimated_prior",
    "identifiability",
    "layer_ranks",
    "leakage_bound",
    "photograph_prior",
    "pictures",
    "reconstruction_robustness",
    "robustness_curve",
    "screen",
    "smoothness_prior",
    "uniform_prior_hit_rate",
    "van_trees",
]
