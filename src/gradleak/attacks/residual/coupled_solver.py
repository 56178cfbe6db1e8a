"""Gauss-Newton for the equations of a convolution under BatchNorm in training mode, see `residual.coupled`."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.attacks.relu.stack import weight_gradient_matrix
from gradleak.attacks.residual.coupled import Coupled

# Steps of Gauss-Newton, conjugate-gradient steps in each, and what of the gradient's square may be left by them: at
# first, and once that no longer helps.
_STEPS = 16
_INNER = 150
_INNER_TOLERANCES = (1e-4, 1e-8)
# A step that leaves more than this share of the squared misfit does not help.
_STALLED = 0.5
_LENGTHS = tuple(2.0**-halvings for halvings in range(10))
# Channels whose cotangents are below this, relative to the largest, are rounding: all of their units are active.
_SILENT = 1e-5
# Misfit, relative to the right side, below which nothing is left to gain.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Solved:
    """What Gauss-Newton found.

    Attributes:
        maps: the input `[I, H, W]`, up to a positive factor.
        error: one standard error of each entry, as far as the weight gradient's misfit tells, `[I, H, W]`.
        misfit: of all equations, relative to their right side.
    """

    maps: Tensor
    error: Tensor
    misfit: float


def crude_start(equations: Coupled, deviation: Tensor) -> Tensor:
    """The input if zhat did not count and BatchNorm divided by `deviation` `[O]`, by truncated least squares."""
    gain = equations.convolution.norm
    assert gain is not None
    guess = (gain.factor / deviation).view(-1, 1) * (equations.cotangent - equations.mean)
    scale = _row_scale(guess)
    layer = equations.convolution.layer
    matrix = weight_gradient_matrix(layer, guess.view(layer.output_shape)) * _by_row(scale, layer.weight)
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = singular > 1e-2 * singular[0]
    solution = (left[:, kept].T @ _stacked(equations.observed * scale, layer.weight)).T / singular[kept] @ right[kept]
    return solution.view(layer.input_shape)


def solve(equations: Coupled, start: Tensor, rounding: float) -> Solved:
    """Gauss-Newton from a start.

    Args:
        equations: to be solved.
        start: first input `[I, H, W]`.
        rounding: relative rounding of the weight gradient's entries.

    Returns:
        The input, with its misfit.
    """
    maps = start
    point = _Point.at(equations, maps)
    careful = False
    for _ in range(_STEPS):
        step = _least_squares(point, _preconditioner(equations, point), _INNER_TOLERANCES[careful])
        if equations.shortcut is None:
            # Only epsilon resists a change of scale, far too weakly against rounding.
            step = step - float((step * maps).sum() / maps.square().sum()) * maps
        length = next((length for length in _LENGTHS if _improves(equations, point, maps + length * step)), 0.0)
        before = point.squared()
        maps = maps + length * step
        # Weights of rows follow the cotangents.
        point = _Point.at(equations, maps)
        if math.sqrt(point.squared()) < _ROUNDING:
            break
        if length == 0 or (length == 1 and point.squared() > _STALLED * before):
            if careful:
                break
            careful = True
    error = _standard_error(equations, point, maps, rounding)
    return Solved(maps, error, math.sqrt(point.squared()))


def _improves(equations: Coupled, point: "_Point", maps: Tensor) -> bool:
    """Whether the residuals at maps are smaller, with the weights of the point."""
    return _Point.at(equations, maps, point).squared() < point.squared()


@dataclass(frozen=True, eq=False)
class _Point:
    """Residuals at one input, with what their derivatives need.

    Attributes:
        equations: of the layer.
        columns: `[I * window, P]`.
        zhat: `[O, P]`.
        deviation: `[O, 1]`.
        below: D, `[O, P]`.
        scale: of the weight gradient's rows, `[O, 1]`.
        size: norm of the scaled weight gradient.
        active: units whose output is known and positive, times the weight of their equations, `[O, P]` or None.
        gaps: weighted residuals: of the weight gradient `[O, I * window]`, of the outputs `[O, P]` where known, of
            the shortcut where known.
    """

    equations: Coupled
    columns: Tensor
    zhat: Tensor
    deviation: Tensor
    below: Tensor
    scale: Tensor
    active: Tensor | None
    gaps: tuple[Tensor, ...]

    @staticmethod
    def at(equations: Coupled, maps: Tensor, like: "_Point | None" = None) -> "_Point":
        """At maps `[I, H, W]`, with the weights of another point if given."""
        norm = equations.convolution.norm
        assert norm is not None
        columns = equations.columns(maps)
        zhat, deviation = equations.normalized(columns)
        below = equations.cotangent_below(zhat, deviation)
        if like is None:
            scale = _row_scale(below)
            scale = scale / (scale * equations.observed).norm()
        else:
            scale = like.scale
        gaps = [scale * (below @ columns.T - equations.observed)]
        active = None
        if equations.values is not None:
            active = (equations.values > 0).to(zhat) / equations.values.norm()
            gaps.append(active * (norm.factor.view(-1, 1) * zhat + norm.summand.view(-1, 1) - equations.values))
        if equations.shortcut is not None:
            gaps.append(equations.shortcut.gap(maps))
        return _Point(equations, columns, zhat, deviation, below, scale, active, tuple(gaps))

    def squared(self) -> float:
        """Sum of squared residuals."""
        return _squared(self.gaps)

    def forward(self, change: Tensor) -> tuple[Tensor, ...]:
        """What a change of the input `[I, H, W]` does to the residuals, to first order."""
        norm = self.equations.convolution.norm
        assert norm is not None
        columns = self.equations.columns(change)
        made = norm.weight.flatten(1) @ columns
        by_deviation = (self.zhat * made).mean(dim=1, keepdim=True) / self.deviation
        zhat = (made - made.mean(dim=1, keepdim=True)) / self.deviation - self.zhat * by_deviation
        factor = norm.factor.view(-1, 1)
        below = -factor * self.equations.product / self.deviation * zhat - self.below * by_deviation
        parts = [self.scale * (below @ self.columns.T + self.below @ columns.T)]
        if self.active is not None:
            parts.append(self.active * factor * zhat)
        if self.equations.shortcut is not None:
            parts.append(self.equations.shortcut.forward(change))
        return tuple(parts)

    def backward(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The transpose of `forward`, `[I, H, W]`."""
        norm, layer = self.equations.convolution.norm, self.equations.convolution.layer
        assert norm is not None
        gradient = self.scale * parts[0]
        below = gradient @ self.columns
        factor = norm.factor.view(-1, 1)
        zhat = -factor * self.equations.product / self.deviation * below
        if self.active is not None:
            zhat = zhat + self.active * factor * parts[1]
        by_deviation = -(below * self.below).sum(dim=1, keepdim=True) - (zhat * self.zhat).sum(dim=1, keepdim=True)
        made = (zhat - zhat.mean(dim=1, keepdim=True)) / self.deviation
        made = made + self.zhat * by_deviation / (self.deviation * self.zhat.shape[1])
        columns = gradient.T @ self.below + norm.weight.flatten(1).T @ made
        maps = functional.fold(
            columns, layer.input_shape[1:], layer.weight.shape[2:], layer.dilation, layer.padding, layer.stride
        ).view(layer.input_shape)
        if self.equations.shortcut is not None:
            maps = maps + self.equations.shortcut.backward(parts[-1], layer.input_shape)
        return maps


def _preconditioner(equations: Coupled, point: _Point) -> Tensor:
    """`[pixels, pixels]`, symmetric: of one channel, its equations with D fixed and an average of the forward ones."""
    layer, norm = equations.convolution.layer, equations.convolution.norm
    assert norm is not None
    matrix = weight_gradient_matrix(layer, (point.scale * point.below).view(layer.output_shape))
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    floor = 1e-8 * float(values[-1])
    if point.active is not None:
        energy = (norm.weight.square().sum(dim=(1, 2, 3)) * (norm.factor / point.deviation[:, 0]).square())[:, None]
        floor += float((energy * point.active.square()).sum()) / math.prod(layer.input_shape)
    if equations.shortcut is not None:
        floor += float((equations.shortcut.weight * equations.shortcut.active).square().sum()) / math.prod(
            layer.input_shape
        )
    return vectors / (values.clamp_min(0) + floor).sqrt() @ vectors.T


def _least_squares(point: _Point, preconditioner: Tensor, tolerance: float) -> Tensor:
    """The Gauss-Newton step, by conjugate gradients on the preconditioned normal equations."""
    shape = point.equations.convolution.layer.input_shape

    def adjoint(parts: tuple[Tensor, ...]) -> Tensor:
        return point.backward(parts).flatten(1) @ preconditioner

    left = tuple(-gap for gap in point.gaps)
    slope = adjoint(left)
    direction, solution = slope, torch.zeros_like(slope)
    first = now = float(slope.square().sum())
    for _ in range(_INNER):
        if not now > tolerance * first:
            break
        changes = point.forward((direction @ preconditioner).view(shape))
        length = now / _squared(changes)
        solution = solution + length * direction
        left = tuple(gap - length * change for gap, change in zip(left, changes, strict=True))
        slope = adjoint(left)
        now, before = float(slope.square().sum()), now
        direction = slope + now / before * direction
    return (solution @ preconditioner).view(shape)


def _squared(parts: tuple[Tensor, ...]) -> float:
    return sum(float(part.square().sum()) for part in parts)


def _standard_error(equations: Coupled, point: _Point, maps: Tensor, rounding: float) -> Tensor:
    """Of each entry, by its channel's misfit and the equations with D fixed."""
    spread = _stacked(point.gaps[0], equations.convolution.layer.weight)
    rows, pixels = len(spread), maps[0].numel()
    noise = spread.square().sum(dim=0).sqrt() / math.sqrt(max(1, rows - min(pixels, rows - 1)))
    least = rounding / 4 * float(point.scale.max()) * float(point.below.abs().sum(dim=1).max())
    noise = torch.maximum(noise, least * maps.flatten(1).abs().mean(dim=1))
    leverage = _preconditioner(equations, point).square().sum(dim=0).sqrt()
    return (noise[:, None] * leverage).view(maps.shape)


def _row_scale(cotangent: Tensor) -> Tensor:
    """A row carries the rounding of what was summed up in it, which its cotangents tell; `[O, 1]`."""
    sizes = cotangent.abs().sum(dim=1, keepdim=True)
    return torch.where(sizes > _SILENT * sizes.max(), 1 / sizes, 0)


def _by_row(scale: Tensor, weight: Tensor) -> Tensor:
    """The scale of each row of `weight_gradient_matrix`, `[O * window, 1]`."""
    return scale[:, 0].repeat_interleave(weight[0, 0].numel())[:, None]


def _stacked(gradient: Tensor, weight: Tensor) -> Tensor:
    """A weight gradient `[O, I * window]` as right sides `[O * window, I]`."""
    return gradient.view(len(weight), weight.shape[1], -1).transpose(1, 2).flatten(0, 1)
