"""Gaussian priors of one input: smooth images, public images, or what is given."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gradleak.errors import refuse
from gradleak.tasks import ImageSpace, InputSpace

FEWEST_IMAGES = 50
"""From fewer public inputs no covariance is estimated."""

LARGEST_COVARIANCE = 4096
"""Values of one input up to which a covariance is held, 134 MB."""

# Brightness, green against red, and blue against yellow: orthonormal rows over the three colors.
_CONTRASTS = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))
# For each of these planes: a, g, b and the share at f = 0 of the variances `H W a f^(-2 g) exp(-b f^2 / H W)` of cosine
# frequencies, f in half periods per image; the last factor is what resampling leaves of the finest. Measured on
# `zoo.data.photographs(side, 200)` of sides 8 to 128 together: a, g and b are the most likely ones of independent
# normal frequencies (Whittle 1953), every octave of every side with the same weight; the share is the variance of the
# mean color.
_PUBLIC = ((0.01569, 1.0503, 0.686, 0.0702), (0.001631, 1.1345, 0.781, 0.0108), (0.001521, 1.103, 0.817, 0.0107))
_COLORS = (0.501, 0.371, 0.32)
# Of the largest eigenvalue: what rounding can make of a zero.
_SMALLEST_VARIANCE = -1e-9


class Prior(Protocol):
    """A normal law of one input, by its principal axes.

    Attributes:
        name: in reports.
        mean: of the shape of one input.
        variances: along the axes, `[d]`.
    """

    @property
    def name(self) -> str:
        """In reports."""
        ...

    @property
    def mean(self) -> Tensor:
        """Of the shape of one input."""
        ...

    @property
    def variances(self) -> Tensor:
        """Along the principal axes, `[d]`, at least 0."""
        ...

    def to_axes(self, columns: Tensor) -> Tensor:
        """Coordinates along the axes of flat inputs, `[d, k]` to `[d, k]`."""
        ...

    def from_axes(self, columns: Tensor) -> Tensor:
        """The way back."""
        ...


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """`N(mean, covariance)` of one input.

    Args:
        mean: of the shape of one input.
        covariance: `[d, d]` in the square of the input's unit, for the flat input; singular ones are allowed.
        name: in reports.
        granted: what it was told of the private inputs themselves, in words; empty for nothing.

    Raises:
        BadInput: when the shapes do not fit, a number is not finite, or the covariance is not symmetric or has a
            negative eigenvalue.
    """

    mean: Tensor
    covariance: Tensor
    name: str = "Gaussian"
    granted: str = ""

    def __post_init__(self) -> None:
        """Check everything."""
        size = self.mean.numel()
        problems: list[str] = []
        if tuple(self.covariance.shape) != (size, size):
            problems.append(
                f"covariance: expected [{size}, {size}] for a mean of shape {list(self.mean.shape)}, got "
                f"{list(self.covariance.shape)}; flatten the inputs first"
            )
        elif not bool(torch.isfinite(self.covariance).all() and torch.isfinite(self.mean).all()):
            problems.append("prior: expected finite numbers, got NaN or infinity; clean the public data first")
        elif not torch.allclose(self.covariance, self.covariance.T, rtol=1e-6, atol=1e-12):
            problems.append("covariance: expected a symmetric matrix, got one that is not; use (C + C.T) / 2")
        elif float(self._eigen[0][0]) < _SMALLEST_VARIANCE * float(self._eigen[0][-1].abs()):
            problems.append(
                f"covariance: expected eigenvalues of at least 0, got {float(self._eigen[0][0]):.2g}; add to its "
                "diagonal or shrink it"
            )
        refuse(problems)

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariance.double())
        return values, vectors

    @property
    def variances(self) -> Tensor:
        """See `Prior`."""
        return self._eigen[0].clamp(min=0)

    def to_axes(self, columns: Tensor) -> Tensor:
        """See `Prior`."""
        return self._eigen[1].to(columns).T @ columns

    def from_axes(self, columns: Tensor) -> Tensor:
        """See `Prior`."""
        return self._eigen[1].to(columns) @ columns


@dataclass(frozen=True, eq=False)
class SmoothPrior:
    """Stationary smooth images: independent cosine frequencies of brightness and color contrasts, by a power law.

    Attributes:
        mean: `[C, H, W]`, one color.
        variances: along the axes, `[C * H * W]`.
        name: in reports.
    """

    mean: Tensor
    variances: Tensor
    name: str = "smooth images"

    def to_axes(self, columns: Tensor) -> Tensor:
        """See `Prior`."""
        return self._turned(columns, transposed=False)

    def from_axes(self, columns: Tensor) -> Tensor:
        """See `Prior`."""
        return self._turned(columns, transposed=True)

    def _turned(self, columns: Tensor, *, transposed: bool) -> Tensor:
        channels, height, width = self.mean.shape
        colors = torch.tensor(_CONTRASTS if channels == 3 else [[1.0]], dtype=torch.float64).to(columns)
        down, across = _cosines(height).to(columns), _cosines(width).to(columns)
        if transposed:
            colors, down, across = colors.T, down.T, across.T
        images = columns.reshape(channels, height, width, -1)
        images = torch.einsum("ab,bhwk->ahwk", colors, images)
        images = torch.einsum("gh,ahwk->agwk", down, images)
        images = torch.einsum("vw,agwk->agvk", across, images)
        return images.reshape(len(columns), -1)


def smoothness_prior(space: InputSpace) -> SmoothPrior:
    """The default prior of images: as smooth as photographs, and nothing else known.

    Frequencies of brightness and two color contrasts are independent, and their variances fall about as the square of
    the frequency (Field 1987), for images of any side alike. The constants were measured once on 200 crops of public
    photographs (`zoo.data.photographs`) at each of five sides.

    Args:
        space: images with 1 or 3 channels; the scale is that of its bounds.

    Returns:
        The prior of one image.

    Raises:
        BadInput: for other inputs.
    """
    shape = tuple(space.shape)
    if not isinstance(space, ImageSpace) or shape[0] not in {1, 3}:
        refuse(
            [
                f"prior: expected images with 1 or 3 channels for the smoothness prior, got inputs of shape "
                f"{list(shape)}; give gradleak.bounds.estimated_prior(public inputs), or None"
            ]
        )
    channels, height, width = shape
    side = math.sqrt(height * width)
    low, high = space.bounds or (0.0, 1.0)
    rows = torch.arange(height, dtype=torch.float64) * (side / height)
    columns = torch.arange(width, dtype=torch.float64) * (side / width)
    squares = rows[:, None].square() + columns.square()
    squares[0, 0] = 1.0
    parts: list[Tensor] = []
    # The brightness of a color image has the length of three channels, a grey one that of one.
    for amplitude, exponent, rolloff, constant in _PUBLIC[:channels]:
        part = amplitude * squares**-exponent * (-rolloff * squares / side**2).exp()
        part[0, 0] = constant
        parts.append(part * (height * width * (high - low) ** 2 / (1 if channels == 3 else 3)))
    color = torch.tensor(_COLORS if channels == 3 else [sum(_COLORS) / 3], dtype=torch.float64)
    mean = (low + (high - low) * color)[:, None, None].expand(channels, height, width).contiguous()
    return SmoothPrior(mean, torch.cat([part.flatten() for part in parts]))


def estimated_prior(images: Tensor) -> GaussianPrior:
    """Mean and covariance of public inputs, shrunk by the rule of Ledoit and Wolf (2004).

    The covariance is shrunk towards independent values of the public variances; for images of 1 or 3 channels, towards
    smooth images (`smoothness_prior`), since independent pixels would make high frequencies far too likely.

    Args:
        images: public inputs `[n, *shape]`, not the private ones, n at least 50; with fewer than values of one input
            the shrinkage is large, and the name tells it.

    Returns:
        The prior of one input.

    Raises:
        BadInput: when there are too few inputs, an input is too large, or a number is not finite.
    """
    problems: list[str] = []
    count, size = len(images), math.prod(images.shape[1:])
    if count < FEWEST_IMAGES:
        problems.append(
            f"prior: expected at least {FEWEST_IMAGES} public inputs, got {count}; give more, best several times the "
            f"{size} values of one, or take the smoothness prior"
        )
    if size > LARGEST_COVARIANCE:
        problems.append(
            f"prior: expected inputs of at most {LARGEST_COVARIANCE} values, got {size}; take the smoothness prior"
        )
    if not bool(torch.isfinite(images).all()):
        problems.append("prior: expected finite public inputs, got NaN or infinity; clean them first")
    refuse(problems)
    from sklearn.covariance import ledoit_wolf

    flat = images.detach().cpu().double().reshape(count, -1).T
    mean = flat.mean(dim=1)
    centered = flat - mean[:, None]
    axes: Prior | None = None
    if images.dim() == 4 and images.shape[1] in {1, 3}:
        channels, height, width = images.shape[1:]
        axes = smoothness_prior(ImageSpace((channels, height, width)))
        sizes, centered = axes.variances.sqrt(), axes.to_axes(centered)
    else:
        spread = centered.std(dim=1)
        sizes = torch.where(spread > 0, spread, 1)
    whitened = (centered / sizes[:, None]).T
    found, shrinkage = ledoit_wolf(whitened.numpy(), assume_centered=True)
    covariance = sizes[:, None] * torch.from_numpy(np.asarray(found)) * sizes
    if axes is not None:
        covariance = axes.from_axes(axes.from_axes(covariance).T)
    covariance = (covariance + covariance.T) / 2
    name = f"estimated from {count} public inputs (shrinkage {float(shrinkage):.2g})"
    return GaussianPrior(mean.view(images.shape[1:]), covariance, name)


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (type II), one frequency a row."""
    from scipy.fft import dct

    return torch.from_numpy(np.asarray(dct(np.eye(size), axis=0, norm="ortho")))
