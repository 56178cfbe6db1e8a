"""How smooth one kernel is, measured by running it along a line through the values it got from the model.

No table of names is consulted. Along the line every output is a function of one number t; where neighboring samples of
its value, slope or curvature differ, bisection tells a jump (the difference stays while the interval shrinks) from
a steep but smooth passage (it shrinks along).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten  # no public module offers them

from gradleak.attacks.second_derivative import lacks_derivative
from gradleak.inspection.recording import Call, copied
from gradleak.inspection.result import Kind
from gradleak.seeds import stage_generator

_SAMPLES = 25
_MOST_OUTPUTS = 4096
_CANDIDATES = 3
# In float64 and units of the sweep: values carry 1e-16, slopes over 3e-8 then 3e-9, curvatures over 2e-5 3e-7. Narrow,
# so that a steep passage (a saturated tanh) is not taken for a jump.
_SLOPE_STEP, _CURVATURE_STEP = 3e-8, 2e-5
_VALUE_WIDTH, _SLOPE_WIDTH, _CURVATURE_WIDTH = 1e-9, 3e-7, 2e-4
_LEAST_JUMP = 1e-5  # relative: half a step of 16 bits
_SHARE = 0.02  # of samples: fewer with a slope or curvature lie at the jumps themselves


@dataclass(frozen=True, eq=False)
class _Line:
    """A kernel along `x (1 + t u)` or `x + t d`.

    Attributes:
        at: from t to the outputs chosen, `[M]` in float64.
        reach: largest |t| of the sweep.
    """

    at: Callable[[float], Tensor]
    reach: float


def probe(call: Call, seed: int) -> Kind | None:
    """Measure one kernel.

    Args:
        call: the kernel with what it got.
        seed: of the line's direction and of the outputs that are looked at.

    Returns:
        What was found, or None where it is smooth as far as values tell, or cannot be run apart from the model.
    """
    generator = stage_generator(seed, f"inspection/{call.name}")
    try:
        first, second = _run(call, {}), _run(call, {})
        if first is None or second is None:
            return None
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):
            return "random"
        kind, tame = _classify(_line(call, generator, first, relative=False))
        if not tame:
            # Outside its domain (roots, logarithms, quotients) it is looked at close to where the model uses it.
            kind, _ = _classify(_line(call, generator, first, relative=True))
        return "choice" if kind is not None and _is_discrete(call) else kind
    # A kernel that cannot run apart from its model, or in float64, is left to the checks of the whole model.
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
        return None


def double_backward_error(call: Call) -> str:
    """PyTorch's words if a kernel's derivative has no derivative; empty if it has one, or none was asked for."""
    flat, spec = tree_flatten((copied(call.args), copied(call.kwargs)))
    leaves: list[Tensor] = []
    for place in call.moved:
        if flat[place].is_floating_point():
            leaves.append(flat[place].requires_grad_())
            flat[place] = leaves[-1] * 1  # in-place kernels refuse leaves
    if not leaves:
        return ""
    args, kwargs = tree_unflatten(flat, spec)
    try:
        with torch.enable_grad():
            results = tree_flatten(call.kernel(*args, **kwargs))[0]
            outputs = [result for result in results if isinstance(result, Tensor) and result.requires_grad]
            if not outputs:
                return ""
            cotangents = [torch.ones_like(output).requires_grad_() for output in outputs]
            gradients = torch.autograd.grad(outputs, leaves, cotangents, create_graph=True, materialize_grads=True)
            sums = [gradient.sum() for gradient in gradients if gradient.requires_grad]
            if sums:
                torch.autograd.grad(torch.stack(sums).sum(), [*leaves, *cotangents], allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        return first_line(error) if lacks_derivative(error) else ""
    return ""


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its class."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _classify(line: _Line) -> tuple[Kind | None, bool]:
    """What the kernel is along the line, and whether it stayed finite there."""
    spacing = 2 * line.reach / (_SAMPLES - 1)
    # Off the round numbers at which exact coincidences happen.
    places = [(i - (_SAMPLES - 1) / 2 + 0.137) * spacing for i in range(_SAMPLES)]
    values = torch.stack([line.at(t) for t in places])
    if not bool(torch.isfinite(values).all()):
        return None, False
    largest = float(values.abs().max())
    change = float((values[1:] - values[:-1]).abs().max())
    bend = (values[2:] - 2 * values[1:-1] + values[:-2]).abs()
    if change == 0 or float(bend.max()) <= 1e-9 * max(largest, change):
        return None, True

    def slope(t: float) -> Tensor:
        return (line.at(t + _SLOPE_STEP) - line.at(t - _SLOPE_STEP)) / (2 * _SLOPE_STEP)

    def curvature(t: float) -> Tensor:
        ends = line.at(t + _CURVATURE_STEP) + line.at(t - _CURVATURE_STEP)
        return (ends - 2 * line.at(t)) / _CURVATURE_STEP**2

    slopes = torch.stack([slope(t) for t in places])
    curvatures = torch.stack([curvature(t) for t in places])
    steepest = change / spacing
    is_flat = float((slopes.abs() > 1e-6 * steepest).double().mean()) <= _SHARE
    is_straight = float((curvatures.abs() > 1e-5 * steepest).double().mean()) <= _SHARE
    jump = _largest_jump(line.at, places, values, _VALUE_WIDTH)
    if jump > 1e3 * largest:
        return None, False  # a pole
    if jump > _LEAST_JUMP * change:
        return ("step" if is_flat else "jump"), True
    if _largest_jump(slope, places, slopes, _SLOPE_WIDTH) > 0.02 * float(slopes.abs().max()):
        return ("piecewise linear" if is_straight else "kink"), True
    if is_straight:
        return None, True
    bent = float(curvatures.abs().max())
    if _largest_jump(curvature, places, curvatures, _CURVATURE_WIDTH) > 0.2 * bent:
        return "curvature jump", True
    return None, True


def _largest_jump(function: Callable[[float], Tensor], places: list[float], samples: Tensor, width: float) -> float:
    """The largest difference of one output that is left over an interval of this width."""
    differences = (samples[1:] - samples[:-1]).abs()
    most = 0.0
    for index in differences.flatten().topk(min(_CANDIDATES, differences.numel())).indices.tolist():
        interval, output = divmod(index, samples.shape[1])
        low, high = places[interval], places[interval + 1]
        at_low, at_high = float(samples[interval, output]), float(samples[interval + 1, output])
        while high - low > width:
            middle = (low + high) / 2
            at_middle = float(function(middle)[output])
            if abs(at_middle - at_low) >= abs(at_high - at_middle):
                high, at_high = middle, at_middle
            else:
                low, at_low = middle, at_middle
        most = max(most, abs(at_high - at_low))
    return most


def _line(call: Call, generator: torch.Generator, outputs: Tensor, *, relative: bool) -> _Line:
    """A random line through what the kernel got."""
    flat = tree_flatten((call.args, call.kwargs))[0]
    shown = torch.randperm(outputs.numel(), generator=generator)[:_MOST_OUTPUTS].to(outputs.device)
    directions: dict[int, Tensor] = {}
    for place in call.moved:
        if not flat[place].is_floating_point():
            continue
        x = flat[place].double()
        drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        size = x.square().mean().sqrt().clamp_min(1e-3)
        directions[place] = x * drawn.clamp(-1, 1) if relative else drawn * size

    def at(t: float) -> Tensor:
        result = _run(call, {place: t * direction for place, direction in directions.items()})
        assert result is not None  # it was not at t = 0
        return result[shown]

    return _Line(at, 0.3 if relative else 3.0)


def _run(call: Call, shifts: dict[int, Tensor]) -> Tensor | None:
    """All outputs of the kernel, flat in float64; whole numbers and truth values count only where nothing else is."""
    flat, spec = tree_flatten((call.args, call.kwargs))
    for place, leaf in enumerate(flat):
        if isinstance(leaf, Tensor):
            copied = leaf.double() if leaf.is_floating_point() else leaf.clone()
            flat[place] = copied + shifts[place] if place in shifts else copied.clone()
        elif isinstance(leaf, torch.dtype) and leaf.is_floating_point:
            flat[place] = torch.float64
    args, kwargs = tree_unflatten(flat, spec)
    with torch.no_grad():
        results: list[Any] = tree_flatten(call.kernel(*args, **kwargs))[0]
    tensors = [_plain(result) for result in results if isinstance(result, Tensor) and result.numel()]
    real = [tensor for tensor in tensors if tensor.is_floating_point()] or tensors
    return torch.cat([tensor.flatten().double() for tensor in real]) if real else None


def _is_discrete(call: Call) -> bool:
    """Whether the kernel gives whole numbers or truth values only."""
    args, kwargs = copied(call.args), copied(call.kwargs)
    with torch.no_grad():
        results = tree_flatten(call.kernel(*args, **kwargs))[0]
    return not any(isinstance(one, Tensor) and (one.is_floating_point() or one.is_quantized) for one in results)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.dequantize() if tensor.is_quantized else tensor
