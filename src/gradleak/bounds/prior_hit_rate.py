"""How often the best guess without any update succeeds: what a bound on reconstruction starts from."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.errors import refuse
from gradleak.seeds import stage_generator

# Centers that are means of the images around them, beside the images themselves.
_SHIFTED_CENTERS = 8
_SHIFTS = 10

# Distances come from a matrix product: what rounds to the radius counts as within it.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PriorHitRate:
    """An estimate of kappa(eta), the largest probability with which a record lies within eta of one fixed point.

    It is an estimate: the public images stand for the prior, and the fixed point is the best of the centers tried,
    where the definition takes the best of all points. A cleverer center can only raise it.

    Attributes:
        rate: largest share of the counted images within `mse` of one center.
        upper: its upper end, for the best of these centers; give this one to `reconstruction_robustness`.
        confidence: with which `upper` lies above the true share of every center tried.
        mse: eta, mean squared error per entry.
        centers: how many were tried: images, their mean, and means of the images around a center.
        counted: images counted around the centers, none of them used to make a center.
    """

    rate: float
    upper: float
    confidence: float
    mse: float
    centers: int
    counted: int


def uniform_prior_hit_rate(candidates: int) -> float:
    """The prior hit rate of an exact match among equally likely candidates.

    Returns:
        One over their number.

    Raises:
        BadInput: with fewer than two candidates.

    >>> uniform_prior_hit_rate(10)
    0.1
    """
    if candidates < 2:
        refuse([f"candidates: expected at least 2, got {candidates}; with one there is nothing to find out"])
    return 1.0 / candidates


def estimate_prior_hit_rate(
    images: Tensor,
    *,
    psnr: float | None = None,
    mse: float | None = None,
    data_range: float = 1.0,
    confidence: float = 0.99,
    max_centers: int = 1000,
    seed: int = 0,
) -> PriorHitRate:
    """Estimate kappa(eta) = sup_z P[loss(Z, z) <= eta] for images, the loss being the mean squared error.

    Half of the images (at most `max_centers` of them) give the centers: themselves, their mean, and the means of the
    images around eight of these, moved ten times (mean shift), since a mean is near more images than any image is. The
    others are counted. The upper end is Clopper and Pearson's, at a level divided by the number of centers.

    Args:
        images: `[M, ...]`, public images that stand for the prior, at least 20.
        psnr: dB from which a reconstruction counts as a success; either this or `mse`.
        mse: mean squared error up to which it does, at least 0.
        data_range: highest minus lowest possible value, for `psnr`.
        confidence: of the upper end, in (0, 1).
        max_centers: at least 1.
        seed: of the halves.

    Returns:
        The estimate with its upper end.

    Raises:
        BadInput: when anything is out of range.
    """
    problems: list[str] = []
    if images.ndim < 2 or len(images) < 20:
        problems.append(
            f"images: expected [M, ...] with M of at least 20, got {list(images.shape)}; give public images"
        )
    elif not bool(images.isfinite().all()):
        problems.append("images: expected finite values, got NaN or infinity; leave those images out")
    if (psnr is None) == (mse is None):
        problems.append(f"success: expected either psnr or mse, got psnr={psnr} and mse={mse}; give one of the two")
    if psnr is not None and not math.isfinite(psnr):
        problems.append(f"psnr: expected a finite number of dB, got {psnr}; 20 is a usual one")
    if mse is not None and not 0 <= mse < math.inf:
        problems.append(f"mse: expected a finite number of at least 0, got {mse}; 0.01 is 20 dB for images in [0, 1]")
    if not 0 < data_range < math.inf:
        problems.append(f"data_range: expected a finite number above 0, got {data_range}; 1 for images in [0, 1]")
    if not 0 < confidence < 1:
        problems.append(f"confidence: expected a number in (0, 1), got {confidence}; 0.99 is usual")
    if max_centers < 1:
        problems.append(f"max_centers: expected at least 1, got {max_centers}; 1000 is usual")
    refuse(problems)
    radius = mse if mse is not None else data_range**2 * 10 ** (-(psnr or 0.0) / 10)
    order = torch.randperm(len(images), generator=stage_generator(seed, "bounds/prior_hit_rate"))
    flat = images.detach().to("cpu", torch.float64).flatten(1)[order]
    half = len(flat) // 2
    centers = _centers(flat[:half][:max_centers], radius)
    counted = flat[half:]
    hits = int(_within(centers, counted, radius).sum(dim=1).max())
    error = (1 - confidence) / len(centers)
    return PriorHitRate(
        hits / len(counted), _upper_end(hits, len(counted), error), confidence, radius, len(centers), len(counted)
    )


def _centers(images: Tensor, radius: float) -> Tensor:
    """The images, their mean, and the means that mean shift reaches from it and from the most crowded images."""
    crowded = _within(images, images, radius).sum(dim=1).argsort(descending=True)[: _SHIFTED_CENTERS - 1]
    mean = images.mean(dim=0, keepdim=True)
    shifted = torch.cat([mean, images[crowded]])
    for _ in range(_SHIFTS):
        near = _within(shifted, images, radius).double()
        counts = near.sum(dim=1, keepdim=True)
        shifted = torch.where(counts > 0, near @ images / counts.clamp(min=1), shifted)
    return torch.cat([images, mean, shifted])


def _within(centers: Tensor, images: Tensor, radius: float) -> Tensor:
    """Which images `[M, d]` lie within the radius of each center `[K, d]`; `[K, M]`."""
    # Around a common origin, so that what is subtracted below is not much larger than the distances.
    origin = images.mean(dim=0)
    centers, images = centers - origin, images - origin
    squares = centers.square().sum(dim=1)[:, None] + images.square().sum(dim=1)
    distances = (squares - 2 * centers @ images.T).clamp(min=0)
    return distances <= radius * images.shape[1] + _ROUNDING * squares


def _upper_end(hits: int, count: int, error: float) -> float:
    """One-sided upper end of a share (Clopper and Pearson 1934, Biometrika 26, 404-413)."""
    from scipy.special import betaincinv  # slow to import

    return 1.0 if hits == count else float(betaincinv(hits + 1, count - hits, 1 - error))
