"""Model factories that tests name on the command line, and the update files that belong to them."""

from pathlib import Path

import torch
from torch import nn

import gradleak as gl
from gradleak.evidence import save_update
from gradleak.seeds import stage_generator
from gradleak.zoo.models import mlp
from gradleak.zoo.models.building import seeded

SHAPE = (1, 6, 6)
CLASSES = 4


def net() -> nn.Module:
    return mlp(36, (8,), CLASSES, seed=3)


def other_names() -> nn.Module:
    return nn.Sequential(net())


def normalized() -> nn.Module:
    return seeded(0, lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, CLASSES)))


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        tokens = self.project(rows)
        return self.head(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(dim=(1, 2)))


def attention() -> nn.Module:
    return seeded(0, _Attention)


def random() -> nn.Module:
    return nn.Linear(36, CLASSES)


def raises() -> nn.Module:
    raise FileNotFoundError("no checkpoint at epoch 9\nsecond line")


def no_module() -> object:
    return {"weight": torch.zeros(3)}


def leaves_the_program() -> nn.Module:
    raise SystemExit("usage: train.py DATA")


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = stage_generator(0, "batch")
    return torch.rand((count, *SHAPE), generator=generator), torch.randint(CLASSES, (count,), generator=generator)


def task(model: nn.Module | None = None) -> gl.Task:
    return gl.Task(model if model is not None else net(), gl.ImageSpace(SHAPE), CLASSES)


def write_update(
    path: Path,
    count: int = 1,
    *,
    threat: gl.ThreatModel | None = None,
    client: gl.clients.Client | None = None,
    model: nn.Module | None = None,
) -> gl.Observation:
    inputs, targets = batch(count)
    observation, _ = gl.capture(task(model), inputs, targets, threat=threat, client=client)
    save_update(path, observation)
    return observation
