"""The rest of a peeled batch: pixels that obey the equations of the layers below the front, and a prior.

With the outputs z of a layer and their cotangents known for every example, the layers below obey the forward equations
`z(x) = z` and their weight gradients, whose cotangents are carried down explicitly: the objective has no second
derivatives, and above a stride it is linear. Where the equations are fewer than the pixels, total variation decides
between the candidates; it starts strong on small images and falls.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.autograd.functional import vjp
from torch.nn.functional import adaptive_avg_pool2d, fold, interpolate, unfold

from gradleak.attacks.closed_form.layers import Activation, Affine, Chain, Reshape
from gradleak.attacks.closed_form.peeling import Front
from gradleak.optim import Budget, Energy, WolfeLBFGS, minimize, value_and_gradient

# Opponent colors: brightness, red against blue, green against both.
_OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
# Rounds the corner of the absolute value, in pixel units.
_CORNER = 1e-3
# The normalized objective is of order 1 at a grey image and may end at 1e-8.
_SCALE = 1e3
# Below this misfit, float32 resolves nothing.
_SMALLEST = 1e-8

Objective = Callable[[Tensor], Tensor]
"""Misfit of images `[N, C, H, W]`, 1 at a grey image."""

Objectives = Callable[[Tensor, float], Objective]
"""From the present images and the inverse of their misfit to the objective of the next stage."""


@dataclass(frozen=True)
class PixelSearch:
    """Schedule of the search.

    Args:
        coarse: sides of the small images that come first, as shares of the full side.
        coarse_steps: L-BFGS steps at each of them.
        weights: weights of the prior at full size, in order; the first also holds for the small images.
        steps: L-BFGS steps at each weight.
        chroma: weight of the total variation of the two color differences relative to that of brightness; colors of
            photographs vary less.
        unsigned: last weights, at which the total variation is that of absolute values: of images whose pixels have
            random signs, once most of the signs are right.
    """

    coarse: tuple[float, ...] = (0.25, 0.5)
    coarse_steps: int = 40
    weights: tuple[float, ...] = (0.1, 0.01, 0.001, 0.0001)
    steps: tuple[int, ...] = (150, 200, 300, 150)
    chroma: float = 3.0
    unsigned: int = 0


@dataclass(frozen=True, eq=False)
class PixelResult:
    """Where the search ended.

    Attributes:
        variable: `[N, C, H, W]`, in pixel units within the bounds.
        misfit: of the peeled equations, 1 at a grey image.
        evaluations: objective values with gradient.
    """

    variable: Tensor
    misfit: float
    evaluations: int


def below_front(chain: Chain, front: Front, variable: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Values at the front, and the gradients of all layers with weights below it, by explicit backward steps.

    Args:
        chain: the network.
        front: its cotangents are carried down; its values are not used.
        variable: `[N, ...]`.

    Returns:
        The values `[N, ...]` and the gradients by name, differentiable in the variable.
    """
    values = [chain.normalize(variable)]
    for layer in chain.layers[: front.index]:
        values.append(layer(values[-1]))
    gradients: dict[str, Tensor] = {}
    for index, cotangents in downward(chain, front, values):
        layer = chain.layers[index]
        if isinstance(layer, Affine):
            gradients.update(_gradients(layer, cotangents, values[index]))
    return values[-1], gradients


def downward(chain: Chain, front: Front, values: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Carry the cotangents of a front down.

    Args:
        chain: the network.
        front: its cotangents are used.
        values: what enters each layer up to the front.

    Yields:
        The position of a layer, and the cotangents of what it puts out, from the front to the first layer.
    """
    cotangents = front.cotangents
    for index in range(front.index - 1, -1, -1):
        layer = chain.layers[index]
        yield index, cotangents
        if not index:
            return
        if isinstance(layer, Activation):
            cotangents = cotangents * layer.slope(values[index + 1])
        elif isinstance(layer, Reshape):
            cotangents = cotangents.reshape(values[index].shape)
        elif isinstance(layer, Affine):
            cotangents = carried(layer, cotangents)
        else:
            cotangents = cast(Tensor, vjp(layer, values[index], cotangents, create_graph=True)[1])


def search_pixels(
    objectives: Objectives,
    start: Tensor,
    bounds: tuple[float, float],
    *,
    schedule: PixelSearch | None = None,
    max_seconds: float | None = None,
    max_evaluations: int | None = None,
) -> PixelResult:
    """Minimize the peeled objective plus total variation, from small images to full size and from strong to weak.

    Args:
        objectives: from the present images and the inverse of their misfit to the objective of the next stage.
        start: first images `[N, C, H, W]`.
        bounds: smallest and largest pixel value.
        schedule: sizes, weights and steps.
        max_seconds: wall time; None for no limit.
        max_evaluations: None for no limit.

    Returns:
        The last candidate.
    """
    plan = schedule if schedule is not None else PixelSearch()
    began, used = time.perf_counter(), 0
    full = (start.shape[-2], start.shape[-1])
    images, misfit, preparing = start, 1.0, 0.0
    stages = [(share, plan.weights[0], plan.coarse_steps) for share in plan.coarse]
    stages += [(1.0, weight, steps) for weight, steps in zip(plan.weights, plan.steps, strict=True)]
    for number, (share, weight, steps) in enumerate(stages):
        unsigned = number >= len(stages) - plan.unsigned
        seconds = None if max_seconds is None else max_seconds - (time.perf_counter() - began)
        evaluations = None if max_evaluations is None else max_evaluations - used
        # A stage is prepared without a look at the clock, in about the time that the last one took.
        if (seconds is not None and seconds <= preparing) or (evaluations is not None and evaluations <= 0):
            break
        asked = time.perf_counter()
        size = (max(1, round(full[0] * share)), max(1, round(full[1] * share)))
        small = images if share == 1.0 else adaptive_avg_pool2d(images, size)
        objective = objectives(images, 1.0 / misfit)
        preparing = time.perf_counter() - asked
        minimum = minimize(
            value_and_gradient(_energy(objective, small.shape, full, weight, plan.chroma, unsigned)),
            small.reshape(1, -1),
            optimizer=WolfeLBFGS(steps=steps),
            budget=Budget(evaluations=evaluations, seconds=None if seconds is None else seconds - preparing),
            box=(torch.full_like(small.flatten(), bounds[0]), torch.full_like(small.flatten(), bounds[1])),
        )
        used += minimum.evaluations
        images = _enlarged(minimum.points[0].view(small.shape), full)
        with torch.no_grad():
            misfit = max(float(objective(images)), _SMALLEST)
    return PixelResult(images, misfit, used)


def _energy(
    objective: Objective, shape: torch.Size, full: tuple[int, int], weight: float, chroma: float, unsigned: bool
) -> Energy:
    """Objective and prior of small images `[N, C, h, w]`, given flat."""

    def energy(point: Tensor) -> Tensor:
        candidate = _enlarged(point.view(shape), full)
        images = candidate.abs() if unsigned else candidate
        return _SCALE * (objective(candidate) + weight * total_variation(images, chroma))

    return energy


def total_variation(images: Tensor, chroma: float) -> Tensor:
    """Mean absolute difference of neighbors, of brightness and of `chroma` times the color differences.

    Args:
        images: `[N, C, H, W]`; other than three channels are taken as they are.
        chroma: weight of color differences.

    Returns:
        A scalar, in pixel units.
    """
    if images.shape[1] == 3:
        mixing = torch.tensor(_OPPONENT, dtype=images.dtype, device=images.device)
        mixing = mixing / mixing.norm(dim=1, keepdim=True)
        mixing = mixing * torch.tensor([[1.0], [chroma], [chroma]], dtype=images.dtype, device=images.device)
        images = torch.einsum("ab,nbhw->nahw", mixing, images)
    across = torch.nn.functional.pad(images[..., :, 1:] - images[..., :, :-1], (0, 1))
    down = torch.nn.functional.pad(images[..., 1:, :] - images[..., :-1, :], (0, 0, 0, 1))
    return 2 * (across.square() + down.square() + _CORNER**2).sqrt().mean()


def _gradients(layer: Affine, cotangents: Tensor, inputs: Tensor) -> dict[str, Tensor]:
    """Gradients of a layer's trained parameters."""
    if layer.is_convolution:
        windows = unfold(inputs, layer.weight.shape[2:], layer.dilation, layer.padding, layer.stride)
        weight = (cotangents.flatten(2) @ windows.transpose(1, 2)).sum(dim=0).view(layer.weight.shape)
        bias = cotangents.sum(dim=(0, 2, 3))
    else:
        weight, bias = cotangents.T @ inputs, cotangents.sum(dim=0)
    return {layer.name: weight} | ({} if layer.bias_name is None else {layer.bias_name: bias})


def carried(layer: Affine, cotangents: Tensor) -> Tensor:
    """Cotangents of a layer's inputs, from those of its outputs."""
    if not layer.is_convolution:
        return cotangents @ layer.weight
    height, width = layer.input_shape[1:]
    windows = layer.weight.flatten(1).T @ cotangents.flatten(2)
    return fold(windows, (height, width), layer.weight.shape[2:], layer.dilation, layer.padding, layer.stride)


def _enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images at full size, by bilinear interpolation."""
    if tuple(images.shape[-2:]) == size:
        return images
    return interpolate(images, size, mode="bilinear", align_corners=False)
