"""Errors between an observed and a recomputed update, and how small they can be expected to be."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Cause:
    """One reason why an update differs from the recomputed one.

    Attributes:
        name: a short word for programs, for instance `sign`, `mode` or `labels`.
        explanation: one sentence for people: what is different and what to do.
        relative_error: the error that remains when this cause (with those listed beside it that are proven) is
            taken into account; NaN where that cannot be computed.
        proven: whether that error is within the tolerance, so that the cause explains the difference.
    """

    name: str
    explanation: str
    relative_error: float
    proven: bool


@dataclass(frozen=True)
class Fit:
    """How far a computed update is from the observed one, with and without a free scale.

    Attributes:
        relative_error: `||h - g|| / ||h||` of observed h and computed g.
        scale: the number s that makes `||h - s g||` smallest; 0 if g is zero.
        scaled_error: `||h - s g|| / ||h||`, in [0, 1].
    """

    relative_error: float
    scale: float
    scaled_error: float


def flat(tensors: Tensors, names: Mapping[str, object] | list[str]) -> Tensor:
    """The named tensors in one float64 vector on the CPU."""
    return torch.cat([tensors[name].detach().double().flatten().cpu() for name in names])


def compare(observed: Tensors, computed: Tensors) -> Fit:
    """Compare the tensors that were observed, which may be fewer than those computed.

    Args:
        observed: by name.
        computed: by name, with at least the observed names and the same shapes.

    Returns:
        The fit; for an observed update of zero the errors are 0 if the computed one is zero too, else infinite.
    """
    h, g = flat(observed, observed), flat(computed, observed)
    power = float(g.dot(g))
    scale = float(h.dot(g)) / power if power > 0 else 0.0
    return Fit(relative(h - g, h), scale, relative(h - scale * g, h))


def relative(residual: Tensor, observed: Tensor) -> float:
    """`||residual|| / ||observed||`; 0 for 0 / 0, and infinite for a residual against nothing."""
    size, error = float(observed.norm()), float(residual.norm())
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))


def per_layer_errors(observed: Tensors, computed: Tensors) -> dict[str, float]:
    """The relative error of each tensor by itself."""
    return {name: compare({name: tensor}, computed).relative_error for name, tensor in observed.items()}
