"""Minimization batched over restarts. Knows nothing of leakage."""

from gradleak.optim.adam import Adam, Schedule, Staircase, WarmCosine, WarmLinear, constant, cosine, tenfold_drops
from gradleak.optim.gauss_newton import LeastSquares, LevenbergMarquardt, Limits, jacobian
from gradleak.optim.lbfgs import LBFGS
from gradleak.optim.line_search import StrongWolfe
from gradleak.optim.lockstep import lockstep
from gradleak.optim.minimize import (
    Box,
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
from gradleak.optim.settling import Settling
from gradleak.optim.stages import Stage, minimize_in_stages
from gradleak.optim.wolfe_lbfgs import WolfeLBFGS

__all__ = [
    "LBFGS",
    "Adam",
    "Box",
    "Budget",
    "Energy",
    "Evaluate",
    "LeastSquares",
    "LevenbergMarquardt",
    "Limits",
    "Minimum",
    "Moment",
    "Optimizer",
    "Proposals",
    "Schedule",
    "Settling",
    "Stage",
    "Staircase",
    "StrongWolfe",
    "WarmCosine",
    "WarmLinear",
    "WolfeLBFGS",
    "constant",
    "cosine",
    "jacobian",
    "lockstep",
    "minimize",
    "minimize_in_stages",
    "tenfold_drops",
    "value_and_gradient",
]
