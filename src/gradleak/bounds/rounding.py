"""Rounding as noise of the same variance: how exact an entry is that was sent in a number format.

Within a cell of width w an error is taken as uniform and independent, of variance `w^2 / 12`; an entry that is rounded
to either neighbor at random has `w^2 f (1 - f)` with f its place between them, `w^2 / 6` on average. This is an
approximation: a rounded update is a deterministic function of the batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gradleak.defenses import QSGD, Defense, Quantize
from gradleak.updates import UpdateKind

# Of the coarsest step in a tensor: finer ones count as this fine, or numbers near zero would seem to be known exactly.
_FINEST = 1e-6


def defense_variance(defense: Defense, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Variance of an entry's rounding by a defense.

    Args:
        defense: any.
        tensors: what it rounds, float64.

    Returns:
        By name, of the tensors' shapes; zeros for a defense that does not round.
    """
    if isinstance(defense, Quantize):
        share = 12 if defense.rounding == "nearest" else 6
        return {name: _floored(step).square() / share for name, step in _steps(defense, tensors).items()}
    if isinstance(defense, QSGD):
        return {name: _levels(defense, tensor).square() / 6 for name, tensor in tensors.items()}
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def type_variance(
    tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor], kind: UpdateKind, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Variance of an entry's rounding by the type in which a client computes.

    The error of a sum is that of its largest terms, so all entries of a tensor count as large as they are in the mean;
    a difference of weights is as coarse as the weights.

    Args:
        tensors: the update by name, float64.
        weights: of the same names.
        kind: what the tensors are.
        dtype: in which the client computed and sent.

    Returns:
        By name, of the tensors' shapes, the same for all entries of a tensor.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        size = tensor.square().mean()
        if kind == "delta" and name in weights:
            size = torch.maximum(size, weights[name].to(tensor).square().mean())
        found[name] = (torch.finfo(dtype).eps ** 2 / 12 * size).expand(tensor.shape)
    # A tensor of zeros is as exact as the least of the others; where all are zero there is nothing to be exact about.
    positive = [float(variance.flatten()[0]) for variance in found.values() if variance.numel() and variance.any()]
    least = min(positive, default=1.0)
    return {name: torch.where(variance > 0, variance, least) for name, variance in found.items()}


def _steps(defense: Quantize, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Width of the cell in which each entry lies."""
    largest = {name: tensor.abs().amax() if tensor.numel() else tensor.sum() for name, tensor in tensors.items()}
    if defense.scope == "global":
        largest = dict.fromkeys(largest, torch.stack(list(largest.values())).amax())
    steps: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        scale = largest[name] / defense.grid.largest if defense.has_scale else torch.ones_like(largest[name])
        scale = torch.where(scale > 0, scale, 1)
        steps[name] = defense.grid.step((tensor / scale).clamp(-defense.grid.largest, defense.grid.largest)) * scale
    return steps


def _floored(steps: Tensor) -> Tensor:
    return steps.clamp(min=_FINEST * float(steps.max())) if steps.numel() else steps


def _levels(defense: QSGD, tensor: Tensor) -> Tensor:
    """Distance between two levels, for each entry."""
    flat = tensor.flatten()
    size = max(1, flat.numel() if defense.bucket is None else min(defense.bucket, flat.numel()))
    norms = torch.stack([bucket.norm() for bucket in flat.split(size)]) if flat.numel() else flat
    return (norms / defense.levels).repeat_interleave(size)[: flat.numel()].view(tensor.shape)
