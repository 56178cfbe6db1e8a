"""The convex end of peeling: the image of least variation that obeys everything known about the first layer.

With the masks of the first layer known, active units give equations, inactive ones inequalities, and the weight
gradient is linear in the pixels. What these leave open, often a third of the pixels' dimensions, is decided by the
box and by the total variation, as in compressed sensing.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from gradleak.attacks.closed_form.layers import Affine
from gradleak.attacks.relu.stack import Front, forward_matrix, weight_gradient_matrix

LARGEST_IMAGE = 4_096
"""Most unknowns for which the factorization, of order unknowns, is a matter of seconds."""
_BLOCK = 384


@dataclass(frozen=True)
class Splitting:
    """Settings of the alternating direction method of multipliers (Boyd et al. 2011, section 3).

    Args:
        sweeps: most iterations.
        stiffness: weight of the equations against the splitting terms, per unit of the rows' norm.
        step: weight of the splitting terms; a pixel of variation counts 1.
    """

    sweeps: int = 80
    stiffness: float = 1e6
    step: float = 10.0


@dataclass(frozen=True, eq=False)
class LinearFacts:
    """Equations and inequalities on pixels `x` `[n]`, in float64.

    Attributes:
        normal: `E^T E` of the equations `E x = e`, `[n, n]`, rows scaled to the forward rows' mean norm.
        right_side: `E^T e`, `[n]`.
        below: sparse rows `G` of `G x <= limits`.
        limits: their right sides.
        count: number of equations.
    """

    normal: Tensor
    right_side: Tensor
    below: sparse.csr_matrix
    limits: Tensor
    count: int


def linear_facts(layer: Affine, front: Front, weight_gradient: Tensor, scale: Tensor, shift: Tensor) -> LinearFacts:
    """What is known about the pixels once the first layer's output and its cotangent are.

    Args:
        layer: the first convolution.
        front: its output.
        weight_gradient: of that layer, `[O, I, height, width]`, float64.
        scale: `[I]`; the layer receives `scale * pixel + shift`.
        shift: `[I]`.

    Returns:
        The facts.
    """
    channels, pixels = layer.input_shape[0], math.prod(layer.input_shape[1:])
    columns = scale.repeat_interleave(pixels)
    outputs = math.prod(layer.output_shape[1:])
    forward = forward_matrix(layer)
    offset = layer.bias.repeat_interleave(outputs) + forward @ shift.repeat_interleave(pixels)
    rows = sparse.csr_matrix((forward * columns).numpy())
    values, sure = front.values.flatten(), front.sure.flatten()
    on, off = sure & front.active.flatten(), sure & ~front.active.flatten()
    equations = rows[on.numpy()]
    normal = torch.from_numpy((equations.T @ equations).toarray())
    right_side = torch.from_numpy(equations.T @ (values - offset)[on].numpy())
    gradient_rows = weight_gradient_matrix(layer, front.cotangent)
    observed = weight_gradient.transpose(0, 1).flatten(1)
    # Both kinds of rows count alike: a row of the weight gradient is scaled to the mean norm of a forward row.
    rate = forward.square().sum(dim=1).mean() / gradient_rows.square().sum(dim=1).mean().clamp_min(1e-300)
    block, sums = gradient_rows.T @ gradient_rows, gradient_rows.sum(dim=1)
    for channel in range(channels):
        part = slice(channel * pixels, (channel + 1) * pixels)
        factor = rate * scale[channel]
        normal[part, part] += factor * scale[channel] * block
        right_side[part] += factor * (gradient_rows.T @ (observed[channel] - shift[channel] * sums))
    return LinearFacts(
        normal, right_side, rows[off.numpy()], -offset[off], int(on.sum()) + channels * len(gradient_rows)
    )


def least_variation(
    facts: LinearFacts,
    shape: tuple[int, int, int],
    bounds: tuple[float, float],
    settings: Splitting,
    *,
    deadline: float = math.inf,
) -> tuple[Tensor, int] | None:
    """Minimize the color-coupled total variation subject to the facts and the box.

    Args:
        facts: equations, kept up to rounding and the finite stiffness, and inequalities.
        shape: of the image, `(C, H, W)`.
        bounds: smallest and largest pixel value.
        settings: of the splitting.
        deadline: value of `time.perf_counter()` after which the present image is returned.

    Returns:
        The image `[C, H, W]`, float64, and the number of sweeps; None if the factorization does not end in half of
        the time.
    """
    differences = _differences(shape)
    pixels = shape[0] * shape[1] * shape[2]
    splits = sparse.csr_matrix(sparse.vstack([sparse.identity(pixels), differences, facts.below]))
    normal = settings.stiffness * facts.normal + settings.step * torch.from_numpy((splits.T @ splits).toarray())
    # Whoever calls needs the other half to do something else.
    now = time.perf_counter()
    factor = cholesky_in_time(normal, now + 0.5 * (deadline - now))
    if factor is None:
        return None
    fixed = torch.cholesky_solve(settings.stiffness * facts.right_side[:, None], factor)[:, 0]
    # The equations are met by `fixed` in float64; what the sweeps add lies where equations say little.
    quick = factor.float()
    limits = facts.limits.numpy()
    image = fixed.numpy().copy()
    split = splits @ image
    multiplier = np.zeros_like(split)
    sweep = 0
    while sweep < settings.sweeps and (sweep == 0 or time.perf_counter() < deadline):
        sweep += 1
        moved = split + multiplier
        split_target = _project(moved, pixels, shape, bounds, limits, 1 / settings.step)
        multiplier = moved - split_target
        pull = torch.from_numpy(settings.step * (splits.T @ (split_target - multiplier))).float()
        image = fixed.numpy() + torch.cholesky_solve(pull[:, None], quick)[:, 0].double().numpy()
        split = splits @ image
    return torch.from_numpy(image).view(shape), sweep


def cholesky_in_time(matrix: Tensor, deadline: float) -> Tensor | None:
    """The lower Cholesky factor, block by block so that the clock can be looked at in between.

    Args:
        matrix: symmetric positive definite, `[n, n]`.
        deadline: value of `time.perf_counter()` after which it gives up.

    Returns:
        The factor; None if it did not end in time.
    """
    factor = matrix.clone()
    for first in range(0, len(factor), _BLOCK):
        if time.perf_counter() >= deadline:
            return None
        own, below = slice(first, first + _BLOCK), slice(first + _BLOCK, None)
        factor[own, own] = torch.linalg.cholesky(factor[own, own])
        column = torch.linalg.solve_triangular(factor[own, own].T, factor[below, own], upper=True, left=False)
        factor[below, own] = column
        factor[below, below] -= column @ column.T
    return factor.tril_()


def _differences(shape: tuple[int, int, int]) -> sparse.csr_matrix:
    """Rows of all horizontal, then of all vertical differences, each in the order of the pixels; zero at the end."""
    pixels = np.arange(shape[0] * shape[1] * shape[2]).reshape(shape)
    rows: list[sparse.csr_matrix] = []
    for axis in (2, 1):
        here = np.delete(pixels, -1, axis=axis).ravel()
        there = np.delete(pixels, 0, axis=axis).ravel()
        entries = np.concatenate([-np.ones(here.size), np.ones(here.size)])
        places = (np.concatenate([here, here]), np.concatenate([here, there]))
        rows.append(sparse.csr_matrix((entries, places), shape=(pixels.size, pixels.size)))
    return sparse.csr_matrix(sparse.vstack(rows))


def _project(
    moved: np.ndarray,
    pixels: int,
    shape: tuple[int, int, int],
    bounds: tuple[float, float],
    limits: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Nearest point of the box, soft threshold of each pixel's differences, nearest point below the limits."""
    result = moved.copy()
    result[:pixels] = moved[:pixels].clip(*bounds)
    steps = moved[pixels : 3 * pixels].reshape(2 * shape[0], -1)
    length = np.sqrt((steps**2).sum(axis=0))
    result[pixels : 3 * pixels] = (steps * (1 - threshold / np.maximum(length, threshold))).reshape(-1)
    result[3 * pixels :] = np.minimum(moved[3 * pixels :], limits)
    return result
