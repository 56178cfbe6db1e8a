"""Models, data, an attack, a client and a defense of a user's own, which tests name as `tests.audits.factories:...`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.attacks import Attack, Progress, dlg
from gradleak.clients import Gradient
from gradleak.reconstructions import Reconstruction
from gradleak.seeds import stage_generator
from gradleak.threat import Observation
from gradleak.updates import UpdateKind
from gradleak.zoo.data import Dataset
from gradleak.zoo.models import mlp

SIDE = 4
CLASSES = 3


def noise(count: int = 12, classes: int = CLASSES) -> Dataset:
    """Gray images of noise."""
    inputs = torch.rand((count, 1, SIDE, SIDE), generator=stage_generator(0, "noise"))
    return Dataset("noise", inputs, torch.arange(count) % classes, tuple(f"kind {number}" for number in range(classes)))


def rows(count: int = 6) -> Dataset:
    """Rows of numbers."""
    inputs = torch.rand((count, 5), generator=stage_generator(0, "rows"))
    return Dataset("rows", inputs, torch.arange(count) % 2, ("no", "yes"))


def net(hidden: int = 4, classes: int = CLASSES) -> nn.Module:
    """Always the same weights."""
    return mlp(SIDE * SIDE, (hidden,), classes, seed=5)


def drawn() -> nn.Module:
    """Weights from torch's own generator, as most factories without a checkpoint have them."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))


def fickle() -> nn.Module:
    """Other weights at each call, whatever the seed."""
    model = drawn()
    generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "little"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
    return model


def fails() -> nn.Module:
    """A checkpoint that is gone."""
    raise FileNotFoundError("no checkpoint at epoch 9")


def not_a_model() -> object:
    """Something else."""
    return {"weight": 3}


def quick_dlg(*, steps: int = 1) -> Attack:
    """A short attack."""
    return dlg(outer_steps=steps)


@dataclass(frozen=True)
class OwnGradient(Gradient):
    """A client."""


@dataclass(frozen=True)
class Doubled:
    """A defense.

    Args:
        factor: of every entry.
    """

    factor: float = 2.0

    def problems(self) -> list[str]:
        """A factor that leaves nothing."""
        return [] if self.factor else ["Doubled.factor: expected anything but 0, got 0; use 2"]

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Multiply."""
        return {name: self.factor * tensor for name, tensor in tensors.items()}


@dataclass(frozen=True)
class _Crashing:
    """An attack with a fault."""

    name: str = "crashing"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        raise ZeroDivisionError("no luck")


def crashing() -> Attack:
    """It fails at every trial."""
    return _Crashing()
