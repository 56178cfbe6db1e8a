"""First guesses: from a shape `[N, ...]` and a generator to a variable, in float64 so that every precision agrees."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Start = Callable[[tuple[int, ...], torch.Generator], Tensor]
"""`start(shape [N, ...], generator) -> variable [N, ...]`."""


def standard_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent N(0, 1) draws in pixel units (Zhu, Liu, Han 2019, algorithm 1)."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent draws from U(0, 1)."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def flat(*channels: float, spread: float = 0.0) -> Start:
    """One color all over: `flat(0.5)` is grey, `flat(1, 0, 0)` red (Wei et al. 2020, section 4.4).

    Args:
        channels: one value for all channels, or one for each.
        spread: standard deviation of independent noise added to every entry, which tells examples apart.

    Returns:
        The start.
    """

    def start(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        color = torch.tensor(channels, dtype=torch.float64)
        level = color.view(-1, *([1] * (len(shape) - 2))).expand(shape[1:])
        return level + spread * torch.randn(shape, generator=generator, dtype=torch.float64)

    return start


def patterned(tile: int = 4) -> Start:
    """A small random tile, U(0, 1), repeated over the image (Wei et al. 2020, section 4.4).

    Args:
        tile: side of the tile in pixels, at least 1.

    Returns:
        The start, for images.
    """

    def start(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        count, channels, height, width = shape
        drawn = torch.rand((count, channels, tile, tile), generator=generator, dtype=torch.float64)
        return drawn.repeat(1, 1, -(-height // tile), -(-width // tile))[:, :, :height, :width]

    return start


def low_frequency(size: int = 4, spread: float = 0.25) -> Start:
    """A grid of N(0.5, spread^2) draws, enlarged bilinearly.

    Args:
        size: side of the grid, at least 1.
        spread: standard deviation of the draws.

    Returns:
        The start, for images.
    """

    def start(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        drawn = torch.randn((*shape[:2], size, size), generator=generator, dtype=torch.float64)
        return interpolate(0.5 + spread * drawn, shape[2:], mode="bilinear", align_corners=False)

    return start


def given(variable: Tensor) -> Start:
    """A known variable `[N, ...]`, for instance another attack's result; every restart begins there.

    Args:
        variable: what to start from.

    Returns:
        The start, which refuses another shape.
    """

    def start(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        del generator
        return variable.detach().cpu().double().reshape(shape)

    return start


grey = flat(0.5)
"""Mid-grey: every entry 0.5."""
