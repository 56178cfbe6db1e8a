"""Whether a known defense only divides an update by a number, as clipping does: found by what it does, not by name."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from gradleak.defenses import Defense, LooksAtStep
from gradleak.seeds import stage_generator
from gradleak.updates import Update

# Far above float32 rounding of a norm, and below any limit that one would set on purpose.
_TOLERANCE = 1e-4


def clipping(defense: Defense, update: Update) -> Literal["active", "inactive"] | None:
    """What a defense that shortens updates did to this one.

    A defense that keeps the direction of every update, and sends the same for this one and a longer one, hides the
    length. One that sends the longer one as it is has hidden nothing.

    Args:
        defense: its deterministic part is applied to updates made up here.
        update: what was sent.

    Returns:
        None where the defense changes directions, or draws at random.
    """
    if isinstance(defense, LooksAtStep):
        return None
    sent = {name: tensor.double() for name, tensor in update.tensors.items()}
    generator = stage_generator(0, "clipping")
    for size in (1e-3, 1e3):  # both sides of any limit near this update
        drawn = {
            name: size * torch.randn(tensor.shape, generator=generator).to(tensor) for name, tensor in sent.items()
        }
        norm = _length(drawn) / max(_length(sent), 1e-300)
        scaled = {name: tensor * (size / norm) for name, tensor in drawn.items()}
        if _angle(defense.apply(scaled, update.kind, None), scaled) > _TOLERANCE:
            return None
    if defense.apply(sent, update.kind, stage_generator(1, "clipping")).keys() != sent.keys():
        return None
    longer = {name: 1.001 * tensor for name, tensor in sent.items()}
    one, other = (defense.apply(longer, update.kind, stage_generator(seed, "clipping")) for seed in (1, 2))
    if any(not torch.equal(one[name], other[name]) for name in one):
        return None
    return "active" if _length(one) < 1.0005 * _length(sent) else "inactive"


def _length(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())


def _angle(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Distance of the two unit vectors."""
    first, second = max(_length(one), 1e-300), max(_length(other), 1e-300)
    return _length({name: one[name] / first - other[name] / second for name in one})
