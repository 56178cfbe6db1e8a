"""Errors between an observed and a recomputed update, and how small they can be expected to be."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

# What equal computations leave on different machines: sums in another order, other convolution algorithms.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# A rounded update may differ from the rounding of a recomputed one by this many times the rounding itself.
_ROUNDING_SLACK = 2.0
_NARROW = (torch.bfloat16, torch.float16)


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


@dataclass(frozen=True)
class Precision:
    """How exactly an update can be expected to agree.

    Attributes:
        tolerance: largest relative error that counts as equal.
        statement: one sentence for people.
    """

    tolerance: float
    statement: str


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


def precision_of(observed: Tensors, computed: Tensors, model: torch.dtype) -> Precision:
    """The tolerance that follows from how the update was stored and computed.

    Values that fit a narrower format than the one they are stored in were rounded to it on their way.

    Args:
        observed: the update by name.
        computed: the recomputed update by name.
        model: floating-point type of the model.

    Returns:
        The tolerance and its reason.
    """
    stored = max((tensor.dtype for tensor in observed.values()), key=lambda dtype: torch.finfo(dtype).eps)
    narrow = stored
    for dtype in _NARROW:
        if torch.finfo(dtype).eps > torch.finfo(narrow).eps and all(
            _fits(tensor, dtype) for tensor in observed.values()
        ):
            narrow = dtype
            break
    tolerance = max(_TOLERANCE.get(dtype, 1e-4) for dtype in (narrow, model))
    short = str(narrow).removeprefix("torch.")
    reason = f"stored as {short}"
    if narrow != stored:
        reason = f"stored as {str(stored).removeprefix('torch.')}, but every value fits {short}: rounded to it before"
    if narrow in _NARROW:
        # Small entries fall among the subnormal numbers of float16, so the rounding is measured, not assumed.
        g = flat(computed, observed)
        tolerance = max(tolerance, _ROUNDING_SLACK * relative(g.to(narrow).double() - g, g))
    return Precision(tolerance, f"{reason}; equal means a relative error of at most {tolerance:.1g}")


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    return bool((tensor.to(dtype).to(tensor.dtype) == tensor).all())
