"""Distances and similarities between one reconstructed and one true example, for a whole batch at once.

Every function takes two tensors `[N, ...]` of one shape and gives `[N]` in float64, one value for each example:
an average over a batch hides the one example that leaked. Nothing here pairs, clamps or denormalizes. A value
that cannot be computed is NaN, never zero.
"""

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor

from gradleak.errors import refuse

SSIM_WINDOW = 11
"""Side of the Gaussian window of SSIM in pixels; images with a shorter side have no SSIM."""


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean over the entries of each example of the squared difference of `x` and `y`, both `[N, ...]`.

    Returns:
        `[N]` in squared input units, 0 or more.

    Raises:
        BadInput: when the shapes differ or there is no axis of examples.

    >>> mean_squared_error(torch.zeros(1, 4), torch.full((1, 4), 0.5)).item()
    0.25
    """
    x, y = _flat(x, y)
    return (x - y).square().mean(dim=1)


def max_abs_error(x: Tensor, y: Tensor) -> Tensor:
    """Largest absolute difference in each example of `x` and `y`, both `[N, ...]`.

    Returns:
        `[N]` in input units, 0 or more.

    Raises:
        BadInput: when the shapes differ or there is no axis of examples.

    >>> max_abs_error(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.5]])).item()
    0.5
    """
    x, y = _flat(x, y)
    return (x - y).abs().amax(dim=1)


def peak_signal_noise_ratio(x: Tensor, y: Tensor, *, data_range: float) -> Tensor:
    """`10 log10(data_range^2 / MSE)` of each example of `x` and `y`, both `[N, ...]`.

    `data_range` is the highest minus the lowest possible value in the units of `x` and `y`. It has no default because
    a wrong one shifts every result silently.

    Returns:
        `[N]` in dB; infinite for identical examples, NaN where an entry is NaN.

    Raises:
        BadInput: when the shapes differ, or `data_range` is not positive and finite.

    >>> round(peak_signal_noise_ratio(torch.zeros(1, 4), torch.full((1, 4), 0.1), data_range=1.0).item(), 3)
    20.0
    """
    refuse(_range_problems(data_range))
    return 10.0 * torch.log10(data_range**2 / mean_squared_error(x, y))


def structural_similarity(x: Tensor, y: Tensor, *, data_range: float) -> Tensor:
    """Mean SSIM of each image of `x` and `y`, both `[N, C, H, W]`.

    Gaussian window of 11 x 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03 and population covariances, averaged
    over channels: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
    Similarity", 2004, equation 13.

    Returns:
        `[N]` in [-1, 1]; NaN for examples that are not images, images with a side below 11 pixels and images with an
        entry that is not finite.

    Raises:
        BadInput: when the shapes differ, or `data_range` is not positive and finite.

    >>> image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> structural_similarity(image, image, data_range=1.0).item()
    1.0
    """
    refuse(_range_problems(data_range))
    flat_x, flat_y = _flat(x, y)
    values = torch.full((len(x),), math.nan, dtype=torch.float64)
    if x.ndim != 4 or min(x.shape[2:]) < SSIM_WINDOW:
        return values
    finite = (flat_x.isfinite() & flat_y.isfinite()).all(dim=1)
    from skimage.metrics import structural_similarity as windowed  # slow to import

    for index in finite.nonzero().flatten().tolist():
        value = windowed(
            flat_x[index].reshape(x.shape[1:]).numpy(),
            flat_y[index].reshape(x.shape[1:]).numpy(),
            data_range=data_range,
            channel_axis=0,
            gaussian_weights=True,  # with sigma 1.5 the library truncates this window to 11 pixels
            sigma=1.5,
            use_sample_covariance=False,
            K1=0.01,
            K2=0.03,
        )
        values[index] = float(cast(np.float64, value))
    return values


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation over all entries of each example of `x` and `y`, both `[N, ...]`.

    The mean of each example is subtracted first, so a flat card of the right brightness gains nothing.

    Returns:
        `[N]` in [-1, 1]; NaN where one of the two examples is constant or has an entry that is not finite.

    Raises:
        BadInput: when the shapes differ or there is no axis of examples.

    >>> round(correlation(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[5.0, 3.0, 1.0]])).item(), 6)
    -1.0
    """
    x, y = _flat(x, y)
    # Rounding of the mean leaves a constant example with a tiny residue that correlates with anything.
    constant = (x.amin(dim=1) == x.amax(dim=1)) | (y.amin(dim=1) == y.amax(dim=1))
    x = x - x.mean(dim=1, keepdim=True)
    y = y - y.mean(dim=1, keepdim=True)
    x = x / x.norm(dim=1, keepdim=True)
    y = y / y.norm(dim=1, keepdim=True)
    return (x * y).sum(dim=1).clamp(-1.0, 1.0).masked_fill(constant, math.nan)


def _flat(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors as float64 `[N, entries]` on the CPU, or a refusal."""
    problems: list[str] = []
    if x.shape != y.shape:
        problems.append(
            f"shapes: expected two equal shapes [N, ...], got {list(x.shape)} and {list(y.shape)}; "
            "pair the examples and use one input space first"
        )
    elif x.ndim < 2 or math.prod(x.shape[1:]) == 0:
        problems.append(
            f"shape: expected [N, ...] with at least one entry in each example, got {list(x.shape)}; "
            "add the axis of examples"
        )
    refuse(problems)
    shape = (len(x), math.prod(x.shape[1:]))
    return (
        x.detach().to("cpu", torch.float64).reshape(shape),
        y.detach().to("cpu", torch.float64).reshape(shape),
    )


def _range_problems(data_range: float) -> list[str]:
    if math.isfinite(data_range) and data_range > 0:
        return []
    return [
        f"data_range: expected a positive finite number, got {data_range}; "
        "give the highest minus the lowest possible value"
    ]
