"""The prior of `maximum_a_posteriori` as a Gaussian: photographs, to one who knows where their edges are.

That attack's prior, `exp(-sum of l_g |D_g x|)` over groups of differences, is a mixture of Gaussians: every factor is
`exp(-l r) = integral of exp(-r^2 / 2 s) over a law of s` (Andrews and Mallows 1974). Given all the scales s the image
is Gaussian with precision `P(s) = sum of D_g^T D_g / s_g`, and its van Trees floor `tr((I + P(s))^-1)` holds for one
who is told them. One who is not told can do no better. The mean of `1 / s_g` given the image is `l_g / |D_g x|`, and
the trace of the inverse is convex in P, so `tr((I + sum of (l_g / |D_g x|) D_g^T D_g)^-1)` is, in the mean over images,
a floor for everyone with this prior. Values on a bound of the range are granted too, since an attack clips there.
"""

import math

import torch
from torch import Tensor

from gradleak.attacks.defended.natural_images import FLAT, contrasts, usual_lengths
from gradleak.bounds.gaussian_prior import LARGEST_COVARIANCE, GaussianPrior, smoothness_prior
from gradleak.errors import refuse
from gradleak.tasks import ImageSpace, InputSpace

# What the attack's prior leaves free, the mean of a plane, is taken from the prior of smooth images; and next to it
# nothing else is free, so that this much of the largest precision only keeps a factorization from failing.
_RIDGE = 1e-12

NAME = "photographs, edges known"
"""Of the prior in reports."""

_GRANTED = "how sharp the image is at every place, and which values lie on a bound of the range,"


def photograph_prior(space: InputSpace, inputs: Tensor) -> GaussianPrior:
    """Photographs with the strength of every edge, and the values on the bounds, granted.

    Args:
        space: images with 1 or 3 channels.
        inputs: the private images `[N, C, H, W]`, of which only where they change how fast is used, and which values
            lie on a bound (within half a step of 8 bits).

    Returns:
        The joint prior of all of them, by flat batch.

    Raises:
        BadInput: for other inputs, images below 2 x 2 pixels or of another shape than the space's, and more than 4096
            values.
    """
    problems = photograph_problems(space, inputs)
    if not problems and tuple(inputs.shape[1:]) != tuple(space.shape):
        problems.append(
            f"inputs: expected images of shape {list(space.shape)}, got {list(inputs.shape)}; give [N, C, H, W] of the "
            "space's own shape"
        )
    refuse(problems)
    assert isinstance(space, ImageSpace)
    size = math.prod(space.shape)
    images = inputs.detach().cpu().double()
    covariance = torch.zeros(images.numel(), images.numel(), dtype=torch.float64)
    for index, image in enumerate(images):
        part = slice(index * size, (index + 1) * size)
        covariance[part, part] = _covariance(space, image)
    return GaussianPrior(images.mean().expand(images.shape), covariance, NAME, _GRANTED)


def photograph_problems(space: InputSpace, inputs: Tensor) -> list[str]:
    """Why there is no prior of photographs for inputs.

    Args:
        space: as for `photograph_prior`.
        inputs: likewise.

    Returns:
        A sentence each; empty if there is one.
    """
    problems: list[str] = []
    if not isinstance(space, ImageSpace) or space.shape[0] not in {1, 3} or min(space.shape[1:]) < 2:
        problems.append(
            "prior: expected images with 1 or 3 channels of at least 2 x 2 pixels for the prior of photographs, got "
            f"inputs of shape {list(space.shape)}; take None"
        )
    if inputs.numel() > LARGEST_COVARIANCE:
        problems.append(
            f"prior: expected at most {LARGEST_COVARIANCE} values for the prior of photographs, got {inputs.numel()}; "
            "take the smoothness prior, or fewer or smaller images"
        )
    return problems


def _covariance(space: ImageSpace, image: Tensor) -> Tensor:
    """Of one image given its edges and the values on the bounds, `[d, d]`."""
    low, high = space.bounds
    planes = contrasts(image[None])[0] / (high - low)
    count = planes[0].numel()
    means = smoothness_prior(space).variances.view(len(planes), count)[:, 0] / (high - low) ** 2
    flat = torch.ones(count, dtype=torch.float64) / math.sqrt(count)
    blocks = [
        _precision(plane, first, second) + torch.outer(flat, flat) / mean
        for plane, mean, first, second in zip(planes, means, *usual_lengths(space), strict=True)
    ]
    # [C, C] from channels to planes; the columns of the change of the three unit colors.
    turn = contrasts(torch.eye(len(planes), dtype=torch.float64)[:, :, None, None])[:, :, 0, 0].T
    precision = torch.einsum("kc,kij,kd->cidj", turn, torch.stack(blocks), turn).reshape(image.numel(), -1)
    precision /= (high - low) ** 2
    precision.diagonal().add_(_RIDGE * float(precision.diagonal().max()))
    step = (high - low) / 510
    free = ((image > low + step) & (image < high - step)).flatten().nonzero().flatten()
    covariance = torch.zeros_like(precision)
    inner = torch.cholesky_inverse(torch.linalg.cholesky(precision[free[:, None], free]))
    covariance[free[:, None], free] = inner
    return covariance


def _precision(plane: Tensor, first: float, second: float) -> Tensor:
    """Of one plane: every squared difference over its own length, as `natural_images` weighs the lengths."""
    across, down = _differences(plane)
    twice, mixed, twice_down = across @ across, across @ down, down @ down
    values = plane.flatten()
    lengths = ((across @ values).square() + (down @ values).square() + FLAT).sqrt()
    bends = ((twice @ values).square() + 2 * (mixed @ values).square() + (twice_down @ values).square() + FLAT).sqrt()
    edge, bend = 0.5 / (first * lengths), 0.5 / (second * bends)
    terms = ((across, edge), (down, edge), (twice, bend), (mixed, 2 * bend), (twice_down, bend))
    return torch.stack([operator.T @ (weight[:, None] * operator) for operator, weight in terms]).sum(dim=0)


def _differences(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Of neighbors across and down, zero at the border, as matrices on flat planes."""

    def along(size: int) -> Tensor:
        steps = torch.diag(torch.ones(size - 1, dtype=torch.float64), 1) - torch.eye(size, dtype=torch.float64)
        steps[-1] = 0
        return steps

    height, width = plane.shape
    rows, columns = torch.eye(height, dtype=torch.float64), torch.eye(width, dtype=torch.float64)
    return torch.kron(rows, along(width)), torch.kron(along(height), columns)
