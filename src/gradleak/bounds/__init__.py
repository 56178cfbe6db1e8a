"""Bounds: what nobody of a stated class can do better than. They see the private batch, and attacks never see them."""

from gradleak.bounds.bayesian import BayesianBound, van_trees
from gradleak.bounds.gaussian_prior import GaussianPrior, Prior, SmoothPrior, estimated_prior, smoothness_prior
from gradleak.bounds.information import FisherInformation
from gradleak.bounds.leakage_bound import LeakageBound, leakage_bound

__all__ = [
    "BayesianBound",
    "FisherInformation",
    "GaussianPrior",
    "LeakageBound",
    "Prior",
    "SmoothPrior",
    "estimated_prior",
    "leakage_bound",
    "smoothness_prior",
    "van_trees",
]
