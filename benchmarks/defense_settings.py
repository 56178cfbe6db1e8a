"""The rows of the defense table: the settings of Zhu, Liu, Han (2019), section 5, and those that came after.

A setting is a client, defenses in order, and a batch size; the same words train a model (`price.py`) and attack an
update (`defenses.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LEVELS = ("1e-4", "1e-3", "1e-2", "1e-1")
PRUNED = (1, 10, 20, 30, 50, 70, 90, 99, 99.9)
FORMATS = ("fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8")
BATCHES = (2, 4, 8, 16, 32, 64)
DP_CLIP, DP_BATCH = 1.0, 256
"""Largest norm of an example's gradient under DP-SGD, and examples of a training step on average."""


@dataclass(frozen=True)
class Setting:
    """One row.

    Attributes:
        defense: components in order, in the words of a spec: `{"name": "TopK", "keep": 0.1}`.
        batch_size: examples of an update that is attacked, and of a training step where the batch is the row's subject.
        dropout: probability of dropout before the classifier, which is part of the model.
        epsilon: of DP-SGD at delta 1e-5, in place of a defense; None for none.
        paper: whether the paper has this row.
    """

    defense: tuple[Mapping[str, Any], ...] = ()
    batch_size: int = 1
    dropout: float = 0.0
    epsilon: float | None = None
    paper: bool = field(default=True, compare=False)


def _one(**settings: Any) -> tuple[Mapping[str, Any], ...]:
    return (settings,)


def _noise() -> dict[str, Setting]:
    """Both laws in both readings: the paper calls its numbers variances, its figures fit standard deviations."""
    found: dict[str, Setting] = {}
    for level in LEVELS:
        value = float(level)
        found[f"gaussian std {level}"] = Setting(_one(name="GaussianNoise", std=value))
        found[f"gaussian variance {level}"] = Setting(_one(name="GaussianNoise", std=value**0.5))
        found[f"laplace scale {level}"] = Setting(_one(name="LaplaceNoise", scale=value))
        found[f"laplace variance {level}"] = Setting(_one(name="LaplaceNoise", scale=(value / 2) ** 0.5))
    return found


SETTINGS: dict[str, Setting] = {
    "none": Setting(),
    **_noise(),
    **{name: Setting(_one(name="Quantize", format=name)) for name in FORMATS},
    **{f"pruning {share:g} %": Setting(_one(name="TopK", keep=round(1 - share / 100, 6))) for share in PRUNED},
    **{f"batch {size}": Setting(batch_size=size) for size in BATCHES},
    **{f"dp-sgd epsilon {epsilon}": Setting(epsilon=float(epsilon), paper=False) for epsilon in (2, 8, 32)},
    "sign": Setting(_one(name="Sign"), paper=False),
    "qsgd 16 levels": Setting(_one(name="QSGD", levels=16), paper=False),
    "clip 1": Setting(_one(name="Clip", norm=1.0), paper=False),
    "random 10 %": Setting(_one(name="RandomK", keep=0.1), paper=False),
    "dgc 99 %": Setting(_one(name="DGC", keep=0.01), paper=False),
    "soteria 80 %": Setting(_one(name="Soteria", percent=80.0), paper=False),
    "precode": Setting(_one(name="Precode"), paper=False),
    "instahide": Setting(_one(name="InstaHide", k=2), batch_size=2, paper=False),
    "augmentation": Setting(_one(name="Augment"), paper=False),
    "dropout 0.3": Setting(dropout=0.3, paper=False),
    "mixup, batch 2": Setting(_one(name="MixUp"), batch_size=2, paper=False),
    "clip, noise, int8": Setting(
        (
            {"name": "Clip", "norm": 1.0},
            {"name": "GaussianNoise", "std": 1e-3},
            {"name": "Quantize", "format": "int8"},
        ),
        paper=False,
    ),
}
"""By name, in the order of the table."""
