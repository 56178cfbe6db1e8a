"""Bounds: what nobody of a stated class can do better than. They see the private batch, and attacks never see them."""

from gradleak.bounds.identifiability import Identifiability, identifiability, pictures
from gradleak.bounds.information import FisherInformation
from gradleak.bounds.leakage_bound import LeakageBound, leakage_bound
from gradleak.bounds.screening import Screening, screen

__all__ = [
    "FisherInformation",
    "Identifiability",
    "LeakageBound",
    "Screening",
    "identifiability",
    "leakage_bound",
    "pictures",
    "screen",
]
