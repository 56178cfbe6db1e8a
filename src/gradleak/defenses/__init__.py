"""Defenses: what a client does on purpose to leak less. One file for each family, and one line here."""

from gradleak.defenses.augment import Augment
from gradleak.defenses.clip import Clip
from gradleak.defenses.dgc import DGC
from gradleak.defenses.drop_layers import DropLayers
from gradleak.defenses.gaussian_noise import GaussianNoise
from gradleak.defenses.insta_hide import InstaHide
from gradleak.defenses.laplace_noise import LaplaceNoise
from gradleak.defenses.memory import Memory
from gradleak.defenses.mixup import MixUp
from gradleak.defenses.precode import Precode
from gradleak.defenses.preimage import Preimage
from gradleak.defenses.protocol import (
    AddsNoise,
    ChangesBatch,
    ChangesTask,
    ChecksTask,
    Defense,
    KeepsMemory,
    LooksAtStep,
    MixesTargets,
    PrivateStep,
    StatesPreimage,
)
from gradleak.defenses.qsgd import QSGD
from gradleak.defenses.quantize import Quantize
from gradleak.defenses.random_k import RandomK
from gradleak.defenses.sign import Sign
from gradleak.defenses.soteria import Soteria
from gradleak.defenses.top_k import TopK

DEFENSES: tuple[type[Defense], ...] = (
    Augment,
    GaussianNoise,
    InstaHide,
    MixUp,
    LaplaceNoise,
    Clip,
    Precode,
    Soteria,
    TopK,
    RandomK,
    DGC,
    DropLayers,
    Quantize,
    QSGD,
    Sign,
)
"""Every defense that comes with the package, for listings and update files."""

__all__ = [
    "DEFENSES",
    "AddsNoise",
    "Augment",
    "ChangesBatch",
    "ChangesTask",
    "ChecksTask",
    "Clip",
    "DGC",
    "Defense",
    "DropLayers",
    "GaussianNoise",
    "InstaHide",
    "KeepsMemory",
    "LaplaceNoise",
    "LooksAtStep",
    "Memory",
    "MixUp",
    "MixesTargets",
    "Precode",
    "Preimage",
    "PrivateStep",
    "QSGD",
    "Quantize",
    "RandomK",
    "Sign",
    "Soteria",
    "StatesPreimage",
    "TopK",
]
