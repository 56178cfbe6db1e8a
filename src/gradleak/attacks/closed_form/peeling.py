"""Peeling: from what enters the last layer back through the layers below, as far as equations determine them.

At a layer with known outputs z and known cotangents k = dL/dz of every example, two groups of linear equations hold
for its inputs x: the layer itself, `W x + b = z`, and its weight gradient, `sum_n k_n x_n^T = dW` (for one example:
Zhu and Blaschko 2021, *R-GAP*, section 3.2; here for any stride, padding and batch). Their solution gives the outputs
and cotangents of the layer before, and so on. Each equation weighs as much as its right-hand side is precise.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.layers import Activation, Affine, AveragePool, Chain, Reshape
from gradleak.linalg import ConvolutionEquations, solve_convolution

_MOST_STEPS = 2000
# Remaining error of a solve, as a share of the statistical one (in energy); small, since the preconditioner, by which
# it is measured, sees the hardest directions a thousand times too short.
_SOLVE_SHARE = 1e-2
# A unit counts as active when its value exceeds this many standard deviations of its estimate.
_ACTIVE_SIGMAS = 20.0
# And this share of the mean: no solve ends closer.
_ACTIVE_SHARE = 1e-7
# Singular values below this share of the largest do not count: what they determine drowns in rounding.
_RANK_TOLERANCE = 1e-5
# Largest matrix whose rank is worth computing when inactive units leave equations out.
_LARGEST_RANK_PROBLEM = 1600


@dataclass(frozen=True)
class LayerCount:
    """Unknowns against equations at one layer, over the whole batch.

    Attributes:
        layer: name of its weight.
        unknowns: entries of its inputs.
        equations: an upper bound of the rank of the equations on them.
    """

    layer: str
    unknowns: int
    equations: int

    @property
    def determined(self) -> bool:
        """Whether the equations can determine the unknowns."""
        return self.equations >= self.unknowns

    def __str__(self) -> str:
        return f"{self.layer}: {self.unknowns} unknowns, {self.equations} equations"


@dataclass(frozen=True, eq=False)
class Front:
    """How far peeling has come: everything known about the input of one layer.

    Attributes:
        index: position in the chain's layers; `values` enters `layers[index]`.
        values: `[N, ...]`, float64.
        cotangents: derivative of the loss with respect to `values`, `[N, ...]`.
        std: estimated standard deviation of an entry of each example's `values`, `[N]`.
        covariance: of such errors between examples, `[N, N]`; None if they are independent.
    """

    index: int
    values: Tensor
    cotangents: Tensor
    std: Tensor
    covariance: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Peeled:
    """The result of peeling.

    Attributes:
        front: the deepest layer input that is determined; index 0 is the model's input.
        counts: one entry for each layer with a weight that was reached below the head, deepest last.
        obstacle: why it stopped; empty when it reached the input.
    """

    front: Front
    counts: tuple[LayerCount, ...]
    obstacle: str = ""


def peel(
    chain: Chain, gradient: Mapping[str, Tensor], front: Front, *, precision: float, deadline: float = math.inf
) -> Peeled:
    """Peel from a known layer input down to the model's input, or to the first layer that is not determined.

    Args:
        chain: the network.
        gradient: the update as the gradient of the loss whose cotangents `front` holds, by name.
        front: a known layer input, usually what enters the last layer.
        precision: relative rounding of the update's entries, for float32 about 6e-8.
        deadline: reading of `time.perf_counter` after which it goes no deeper.

    Returns:
        How far it came.
    """
    counts: list[LayerCount] = []
    while front.index > 0:
        layer = chain.layers[front.index - 1]
        if isinstance(layer, AveragePool):
            return Peeled(front, tuple(counts), f"average pooling before layer {front.index} keeps only means")
        if isinstance(layer, Reshape):
            front = _unshape(chain, front)
            continue
        activation = layer if isinstance(layer, Activation) else None
        position = front.index - 1 if activation is None else front.index - 2
        affine = chain.layers[position] if position >= 0 else None
        if not isinstance(affine, Affine):
            return Peeled(front, tuple(counts), "an activation that does not follow a layer with a weight")
        if time.perf_counter() >= deadline:
            return Peeled(front, tuple(counts), "the time is spent")
        outputs = _outputs(affine, activation, front)
        count, obstacle = _count(affine, outputs, active_only=activation is not None and activation.kind == "relu")
        counts.append(count)
        if obstacle:
            return Peeled(front, tuple(counts), obstacle)
        deeper = _through(affine, position, outputs, gradient[affine.name].double(), precision, deadline)
        if deeper is None:
            late = time.perf_counter() >= deadline
            why = (
                "the time is spent" if late else f"the equations of {affine.name} are too ill-conditioned to be solved"
            )
            return Peeled(front, tuple(counts), why)
        front = deeper
    return Peeled(front, tuple(counts))


@dataclass(frozen=True, eq=False)
class _Outputs:
    """What is known about the outputs of a layer with a weight: values without bias, cotangents, precision."""

    values: Tensor
    cotangents: Tensor
    precision: Tensor
    relative_std: float


def _unshape(chain: Chain, front: Front) -> Front:
    """Undo a change of shape."""
    shape = (len(front.values), *chain.shapes[front.index - 1])
    return Front(front.index - 1, front.values.reshape(shape), front.cotangents.reshape(shape), front.std)


def _outputs(affine: Affine, activation: Activation | None, front: Front) -> _Outputs:
    """Undo an activation: what its input was, and how precisely that is known."""
    shape = (len(front.values), *affine.output_shape)
    bias = affine.bias.view(-1, *[1] * (len(affine.output_shape) - 1))
    values, cotangents = front.values.reshape(shape), front.cotangents.reshape(shape)
    std = front.std.view(-1, *[1] * len(affine.output_shape)).expand_as(values)
    # Errors of the cotangents count as much in the weight's gradient as the example itself.
    share = cotangents.flatten(1).square().sum(dim=1) / cotangents.square().sum().clamp(min=1e-300)
    relative = front.std / values.flatten(1).square().mean(dim=1).sqrt().clamp(min=1e-300)
    relative_std = float((share * relative.square()).sum().sqrt())
    if activation is None:
        precision = std**-2
        return _Outputs(values - bias, cotangents, precision, relative_std)
    low, high = activation.interval
    # Rounding may put a saturated value on or past the limit of its range, where it has no inverse.
    inside = values if activation.kind == "relu" else torch.clamp(values, low + 0.1 * std, high - 0.1 * std)
    threshold = torch.clamp(_ACTIVE_SIGMAS * std, min=_ACTIVE_SHARE * float(values.square().mean().sqrt()))
    active = values > threshold if activation.kind == "relu" else torch.ones_like(values).bool()
    slope = activation.slope(inside) * active
    return _Outputs(
        activation.inverse(inside) - bias, cotangents * slope, (slope / std).square() * active, relative_std
    )


def _count(affine: Affine, outputs: _Outputs, *, active_only: bool) -> tuple[LayerCount, str]:
    """Unknowns against equations at one layer, and the obstacle if they do not suffice."""
    count = len(outputs.values)
    unknowns = count * math.prod(affine.input_shape)
    forward = int((outputs.precision > 0).sum())
    if not affine.is_convolution:
        of_gradient = min(count, affine.weight.shape[0]) * affine.weight.shape[1]
    else:
        of_gradient = _equations(affine, outputs, 1.0).most_gradient_equations()
    result = LayerCount(affine.name, unknowns, forward + of_gradient)
    if result.determined and active_only and affine.is_convolution:
        if count > 1:
            return result, f"{affine.name} is below inactive units, and its rank in a batch is not known"
        result = LayerCount(affine.name, unknowns, _rank(affine, outputs))
    if result.determined:
        return result, ""
    return result, f"{affine.name} has {unknowns} unknown inputs and {result.equations} independent equations"


def _equations(affine: Affine, outputs: _Outputs, gradient_precision: float) -> ConvolutionEquations:
    """The equations on the inputs of a convolution."""
    height, width = affine.input_shape[1:]
    return ConvolutionEquations(
        affine.weight,
        outputs.cotangents,
        outputs.precision,
        gradient_precision,
        (height, width),
        affine.stride,
        affine.padding,
        affine.dilation,
    )


def _rank(affine: Affine, outputs: _Outputs) -> int:
    """Rank of all equations together, for examples whose inactive units leave equations out."""
    equations = _equations(affine, outputs, 1.0)
    count, channels = len(outputs.values), affine.weight.shape[1]
    unknowns = count * math.prod(affine.input_shape)
    directions: list[Tensor] = []
    for pixels, block in equations.gradient_blocks():
        matrix = block.flatten(1)
        _, values, right = torch.linalg.svd(matrix, full_matrices=True)
        rank = int((values > _RANK_TOLERANCE * values.max().clamp(min=1e-300)).sum())
        free = torch.zeros(matrix.shape[1] - rank, count, math.prod(affine.input_shape[1:])).double()
        free[:, :, pixels] = right[rank:].unflatten(1, (count, len(pixels)))
        directions.append(free)
    free = torch.cat(directions)
    of_gradient = unknowns - channels * len(free)
    if channels * len(free) > _LARGEST_RANK_PROBLEM:
        return min(unknowns, of_gradient + int((outputs.precision > 0).sum()))
    if not len(free):
        return of_gradient
    maps = torch.zeros(channels, len(free), count, *affine.input_shape).double()
    for channel in range(channels):
        maps[channel, :, :, channel] = free.view(len(free), count, *affine.input_shape[1:])
    images = affine(maps.flatten(0, 2)) - affine.bias.view(-1, 1, 1)
    images = images.view(channels * len(free), -1)[:, outputs.precision.flatten() > 0]
    if not images.numel():
        return of_gradient
    values = torch.linalg.svdvals(images)
    return of_gradient + int((values > _RANK_TOLERANCE * values.max()).sum())


def _through(
    affine: Affine, position: int, outputs: _Outputs, gradient: Tensor, precision: float, deadline: float
) -> Front | None:
    """Solve for the inputs of a layer with a weight, and carry the cotangents through it; None without convergence."""
    rounding = float(gradient.square().mean().sqrt()) * math.hypot(precision, outputs.relative_std)
    if rounding == 0:  # a layer that was pruned away says nothing
        return None
    if not affine.is_convolution:
        # Row by row of dW: sum_n k_n x_n = dW, with as many equations as the layer has outputs.
        values = torch.linalg.lstsq(outputs.cotangents.T, gradient).solution
        smallest = float(torch.linalg.svdvals(outputs.cotangents)[-1])
        std = torch.full_like(values[:, 0], rounding / max(smallest, 1e-300))
        return Front(position, values, outputs.cotangents @ affine.weight, std)
    if not bool(gradient.any()):  # pruned, or rounded away: of no exact gradient would all entries vanish
        return None
    equations = _equations(affine, outputs, rounding**-2)
    solution = solve_convolution(
        equations,
        equations.right_side(outputs.values, gradient),
        share=_SOLVE_SHARE,
        max_steps=_MOST_STEPS,
        deadline=deadline,
    )
    if time.perf_counter() >= deadline:
        return None
    # Saturated smooth units make the solve slow and the result rough; missing ones can leave it without meaning.
    if solution.steps == _MOST_STEPS and not bool((outputs.precision > 0).all()):
        return None
    return Front(position, solution.x, equations.adjoint_outputs(outputs.cotangents), solution.variance.sqrt())
