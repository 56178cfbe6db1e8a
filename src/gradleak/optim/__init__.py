"""Minimization batched over restarts. Knows nothing of leakage."""

from gradleak.optim.lbfgs import LBFGS
from gradleak.optim.lockstep import lockstep
from gradleak.optim.minimize import (
    Budget,
    Energy,
    Evaluate,
    Minimum,
    Moment,
    Optimizer,
    Proposals,
    minimize,
    value_and_gradient,
)

__all__ = [
    "LBFGS",
    "Budget",
    "Energy",
    "Evaluate",
    "Minimum",
    "Moment",
    "Optimizer",
    "Proposals",
    "lockstep",
    "minimize",
    "value_and_gradient",
]
