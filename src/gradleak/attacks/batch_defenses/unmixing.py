"""From mixtures of two to the images that were mixed: who with whom, and in which shares.

Partners with different labels are told by the soft targets. Where labels repeat, several choices remain, and where only
examples of one label were mixed the share is open too. Then the images decide: differences of neighboring pixels in
separate photographs are independent and about Laplacian, which is what mixing spoils.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations

import torch
from torch import Tensor

from gradleak.attacks.batch_defenses.mixed_head import Partners, seen
from gradleak.attacks.closed_form.pixels import total_variation
from gradleak.defenses.mixup import mixed, mixing
from gradleak.optim import Budget, WolfeLBFGS, minimize, value_and_gradient

_MOST_PARTNERS = 5040
# Shares that are tried where the labels leave them open, the larger part's.
_SHARES = tuple(0.51 + 0.49 * step / 35 for step in range(36))
# Mixtures this close to even are not taken apart by linear algebra alone.
_SINGULAR = 1e-3
# Nothing is gained by partners unless they explain the images better by so much, in units of one image's logarithm.
_WORTHWHILE = 0.02
# Errors of a recovered mixture's pixels, and below which singular value their enlargement is held down.
_ERROR = 0.003
_WEAK = 0.25
# Of a Laplace prior: inverse of a typical mean absolute difference of neighbors; colors vary less than brightness.
_PRIOR = 20.0
_CHROMA = 3.0
_STEPS = 150


@dataclass(frozen=True, eq=False)
class Unmixed:
    """Images taken apart.

    Attributes:
        images: `[N, ...]`; image n is the larger part of mixture n.
        coefficients: with which they give the mixtures, `[N, N]`.
        choices: partners and shares that the labels left open.
    """

    images: Tensor
    coefficients: Tensor
    choices: int


def unmix(mixtures: Tensor, labels: tuple[int, ...], partners: Partners, share: float) -> Unmixed:
    """Solve for the images, with the most plausible of the partners that the labels allow.

    Args:
        mixtures: `[N, ...]`, in the order of the labels.
        labels: of the larger part of every mixture.
        partners: of every mixture; others with the same labels are tried too.
        share: of the larger part; where all partners have equal labels it is open, and searched.

    Returns:
        The images, not clamped.
    """
    told = any(own != other for own, other in seen(labels, partners))
    best, least, choices = torch.eye(len(labels), dtype=mixtures.dtype), float("inf"), 0
    alike = islice(_alike(labels, partners), _MOST_PARTNERS)
    for candidate in alike:
        still = all(own == other for own, other in enumerate(candidate))
        for larger in (share,) if told else (1.0,) if still else _SHARES[:-1]:
            coefficients = mixing(torch.tensor([larger], dtype=mixtures.dtype), torch.tensor(candidate))
            value = implausibility(mixtures, coefficients) + (0 if told or still else _WORTHWHILE)
            choices += 1
            if value < least:
                best, least = coefficients, value
    return Unmixed(solved(mixtures, best), best.to(mixtures), choices)


def _alike(labels: tuple[int, ...], partners: Partners) -> Iterator[Partners]:
    """All partners with which every mixture has the labels that it has; the given ones first."""
    yield partners
    for candidate in permutations(range(len(labels))):
        same = all(labels[mine] == labels[theirs] for mine, theirs in zip(partners, candidate, strict=True))
        if same and candidate != partners:
            yield candidate


def solved(mixtures: Tensor, coefficients: Tensor) -> Tensor:
    """The images of which mixtures are made, by least squares; what even shares leave open stays as it is mixed."""
    left, sizes, right = torch.linalg.svd(coefficients.double())
    inverse = torch.where(sizes > _SINGULAR, 1 / sizes.clamp(min=_SINGULAR), 1.0)
    return mixed(right.T @ (inverse[:, None] * left.T), mixtures)


def implausibility(mixtures: Tensor, coefficients: Tensor) -> float:
    """Negative logarithm of the likelihood of a mixing matrix, for each entry of an image, up to a constant.

    Differences of neighbors of every image are taken as independent, from a Laplace distribution with that image's own
    mean absolute value b: `log |det M| + sum_n log b_n`.

    Args:
        mixtures: `[N, ...]`.
        coefficients: M `[N, N]`.

    Returns:
        Lower for what is more plausible; infinite for even shares, which no image could be taken out of.
    """
    determinant = float(torch.linalg.det(coefficients.double()).abs())
    if determinant < _SINGULAR:
        return float("inf")
    images = solved(mixtures, coefficients)
    steps = [
        images.diff(dim=dim).abs().flatten(1).mean(dim=1) for dim in range(1 if images.ndim < 4 else 2, images.ndim)
    ]
    sizes = torch.stack(steps).sum(dim=0).clamp(min=1e-12)
    return float(torch.tensor(determinant).log() + sizes.log().sum())


def smoothed(mixtures: Tensor, unmixed: Unmixed, bounds: tuple[float, float], error: float = _ERROR) -> Tensor:
    """The images within their bounds that fit the mixtures up to an error, with little total variation besides.

    Where shares are nearly even, solving enlarges every error; bounds and total variation hold it down.

    Args:
        mixtures: `[N, C, H, W]`.
        unmixed: where to start.
        bounds: smallest and largest pixel value.
        error: standard deviation of the mixtures' pixels.

    Returns:
        Images like `unmixed.images`, which are returned themselves where nothing is enlarged.
    """
    if float(torch.linalg.svdvals(unmixed.coefficients.double()).min()) > _WEAK:
        return unmixed.images
    start = unmixed.images.double().clamp(*bounds)
    wanted, coefficients = mixtures.double(), unmixed.coefficients.double()

    def energy(point: Tensor) -> Tensor:
        images = point.view(start.shape)
        misfit = (mixed(coefficients, images) - wanted).square().mean() / error**2
        return misfit + _PRIOR * total_variation(images, _CHROMA)

    low, high = (torch.full_like(start.flatten(), bound) for bound in bounds)
    ended = minimize(
        value_and_gradient(energy),
        start.reshape(1, -1),
        optimizer=WolfeLBFGS(steps=_STEPS),
        budget=Budget(evaluations=2 * _STEPS),
        box=(low, high),
    )
    return ended.points[0].view(start.shape).to(mixtures)
