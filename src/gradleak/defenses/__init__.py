"""Defenses: what a client does on purpose to leak less. One file for each family, and one line here."""

from gradleak.defenses.gaussian_noise import GaussianNoise
from gradleak.defenses.precode import Precode
from gradleak.defenses.preimage import Preimage
from gradleak.defenses.protocol import (
    ChangesBatch,
    ChangesTask,
    Defense,
    LooksAtStep,
    PrivateStep,
    StatesPreimage,
)
from gradleak.defenses.soteria import Soteria
from gradleak.defenses.top_k import TopK

DEFENSES: tuple[type[Defense], ...] = (
    GaussianNoise,
    Precode,
    Soteria,
    TopK,
)
"""Every defense that comes with the package, for listings and update files."""

__all__ = [
    "DEFENSES",
    "ChangesBatch",
    "ChangesTask",
    "Defense",
    "GaussianNoise",
    "LooksAtStep",
    "Precode",
    "Preimage",
    "PrivateStep",
    "Soteria",
    "StatesPreimage",
    "TopK",
]
