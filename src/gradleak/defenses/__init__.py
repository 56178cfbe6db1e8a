"""Defenses: what a client does on purpose to leak less. One file for each family, and one line here."""

from gradleak.defenses.augment import Augment
from gradleak.defenses.gaussian_noise import GaussianNoise
from gradleak.defenses.insta_hide import InstaHide
from gradleak.defenses.mixup import MixUp
from gradleak.defenses.preimage import Preimage
from gradleak.defenses.protocol import (
    ChangesBatch,
    ChangesTask,
    Defense,
    LooksAtStep,
    MixesTargets,
    PrivateStep,
    StatesPreimage,
)
from gradleak.defenses.top_k import TopK

DEFENSES: tuple[type[Defense], ...] = (
    Augment,
    GaussianNoise,
    InstaHide,
    MixUp,
    TopK,
)
"""Every defense that comes with the package, for listings and update files."""

__all__ = [
    "DEFENSES",
    "Augment",
    "ChangesBatch",
    "ChangesTask",
    "Defense",
    "GaussianNoise",
    "InstaHide",
    "LooksAtStep",
    "MixUp",
    "MixesTargets",
    "Preimage",
    "PrivateStep",
    "StatesPreimage",
    "TopK",
]
