"""Scoring: pair a reconstruction with the truth, measure each example, and say what chance would have scored."""

from gradleak.scoring.baselines import baseline_scores, dataset_mean, grey, mean_color, random_other
from gradleak.scoring.metrics import (
    correlation,
    max_abs_error,
    mean_squared_error,
    peak_signal_noise_ratio,
    structural_similarity,
)
from gradleak.scoring.pairing import pair
from gradleak.scoring.scores import Scores, score, score_inputs
from gradleak.scoring.statistics import MedianInterval, Quantiles, bootstrap_median, quantiles, wilson_interval

__all__ = [
    "MedianInterval",
    "Quantiles",
    "Scores",
    "baseline_scores",
    "bootstrap_median",
    "correlation",
    "dataset_mean",
    "grey",
    "max_abs_error",
    "mean_color",
    "mean_squared_error",
    "pair",
    "peak_signal_noise_ratio",
    "quantiles",
    "random_other",
    "score",
    "score_inputs",
    "structural_similarity",
    "wilson_interval",
]
