"""Defenses: what a client does on purpose to leak less. One file for each family, and one line here."""

from gradleak.defenses.clip import Clip
from gradleak.defenses.gaussian_noise import GaussianNoise
from gradleak.defenses.laplace_noise import LaplaceNoise
from gradleak.defenses.preimage import Preimage
from gradleak.defenses.protocol import (
    AddsNoise,
    ChangesBatch,
    ChangesTask,
    ChecksTask,
    Defense,
    LooksAtStep,
    PrivateStep,
    StatesPreimage,
)
from gradleak.defenses.quantize import Quantize
from gradleak.defenses.sign import Sign
from gradleak.defenses.top_k import TopK

DEFENSES: tuple[type[Defense], ...] = (
    GaussianNoise,
    LaplaceNoise,
    Clip,
    TopK,
    Quantize,
    Sign,
)
"""Every defense that comes with the package, for listings and update files."""

__all__ = [
    "DEFENSES",
    "AddsNoise",
    "ChangesBatch",
    "ChangesTask",
    "ChecksTask",
    "Clip",
    "Defense",
    "GaussianNoise",
    "LaplaceNoise",
    "LooksAtStep",
    "Preimage",
    "PrivateStep",
    "Quantize",
    "Sign",
    "StatesPreimage",
    "TopK",
]
