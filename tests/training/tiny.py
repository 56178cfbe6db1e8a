"""Trainings that take a fraction of a second."""

from pathlib import Path
from typing import Any

from torch import nn

from gradleak.seeds import torch_seed

SINGLE: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "mlp", "settings": {"hidden": [16]}},
    "data": "digits",
    "epochs": 2,
    "batch_size": 64,
    "optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "schedule": "cosine"},
    "checkpoints": [0, 0.1, 1],
}

FEDERATED: dict[str, Any] = {
    "name": "tiny-federation",
    "model": "tests.training.tiny:normalized",
    "data": "digits",
    "rounds": 4,
    "batch_size": 32,
    "federated": {"clients": 5, "participation": 0.6, "local_epochs": 2, "split": "dirichlet"},
    "checkpoints": [0, 0.5, 1],
}


def normalized() -> nn.Module:
    """A network with batch normalization and dropout, which draws from torch's own generator."""
    with torch_seed(3):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 10)
        )


def double() -> nn.Module:
    """A network in double precision."""
    with torch_seed(3):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()


WIDTH = [12]
"""Of `changing`, to change its code."""


def changing() -> nn.Module:
    """A network that a test makes wider."""
    with torch_seed(3):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH[0]), nn.Tanh(), nn.Linear(WIDTH[0], 10))


def files(folder: Path) -> dict[str, bytes]:
    """What a training leaves behind, by name."""
    names = [*sorted(path.name for path in folder.glob("stage-*.safetensors")), "history.jsonl"]
    return {name: (folder / name).read_bytes() for name in names}
