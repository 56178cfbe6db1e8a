"""Inspection: which operations of a model are not twice differentiable, and what that means for an audit."""

from gradleak.inspection.inspecting import inspect
from gradleak.inspection.result import (
    Conditions,
    Derivatives,
    DoubleBackward,
    Finding,
    Inspection,
    Parameters,
    Replacement,
    Route,
)

__all__ = [
    "Conditions",
    "Derivatives",
    "DoubleBackward",
    "Finding",
    "Inspection",
    "Parameters",
    "Replacement",
    "Route",
    "inspect",
]
