"""The van Trees bound: what no estimate, biased or not, can do better than if inputs are drawn from a Gaussian prior.

For `x ~ N(m, S)` and any estimate, `E |x' - x|^2 >= tr((E[I(x)] + S^-1)^-1)` (van Trees 1968). With `S = R R^T` this is
`tr(R (1 + R^T I R)^-1 R^T)`, which needs no inverse of S, and neither I nor S has to have full rank.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.bounds.gaussian_prior import GaussianPrior, Prior
from gradleak.bounds.information import FisherInformation
from gradleak.errors import refuse
from gradleak.linalg import Estimate, gram_spectrum

# What is known better than this relative to the prior counts as known this well.
_LARGEST = 1e18
# Squared pivots of a matrix with ones on the diagonal: below, elimination loses too many digits.
_SMALLEST_PIVOT = 1e-9
# Axes of the prior along which the leading directions of a partial spectrum are resolved.
_RESOLVED = 1024


@dataclass(frozen=True, eq=False)
class BayesianBound:
    """For inputs drawn from a Gaussian.

    Attributes:
        mse_floor: lowest mean squared error of any estimate, over noise and prior, in the square of the input's unit.
        std: of each input value, `[d]`, given the update; None where only a part of the spectrum is known.
        prior_variance: the mean squared error of the prior's mean, without any update.
        prior: name.
        spread: standard deviation of the squared error of the best estimate, as a share of its mean, if what is left
            of the prior is normal; NaN where only a part of the spectrum is known.
    """

    mse_floor: float
    std: Tensor | None
    prior_variance: float
    prior: str
    spread: float = math.nan


def van_trees(
    information: FisherInformation | Sequence[FisherInformation], prior: Prior, *, trace: Estimate | None = None
) -> BayesianBound:
    """The floor of estimates with a prior.

    Args:
        information: at a batch, which makes this a local approximation, or at several batches drawn from the prior or
            like it, over which it is averaged as the bound demands.
        prior: of one input; a batch is one of independent inputs.
        trace: `tr(I) / d` with its standard error, for information that is not exact.

    Returns:
        The bound; for information that is not exact a lower floor that holds as far as the estimate of the trace does.

    Raises:
        BadInput: when the sizes do not fit, or several informations are not all exact.
    """
    several = [information] if isinstance(information, FisherInformation) else list(information)
    refuse(_problems(several, prior, trace))
    if several[0].exact:
        return van_trees_at(several, prior, [1.0])[0]
    assert trace is not None
    floor = _partial_floor(several[0], trace, prior)
    return _bound(floor, None, prior)


def van_trees_at(
    several: Sequence[FisherInformation], prior: Prior, factors: Sequence[float], *, pixels: bool = True
) -> list[BayesianBound]:
    """The same for information multiplied by several factors, as by noise of several strengths.

    Args:
        several: exact ones.
        prior: of one input.
        factors: of all information.
        pixels: whether the standard deviation of each value is wanted, and the spread.

    Returns:
        One for each factor.
    """
    roots = _repeated(prior.variances, several[0]).sqrt()
    columns = [_columns(one, prior, roots) for one in several]
    factor = torch.cat(columns, dim=1) / len(several) ** 0.5
    square = factor @ factor.T
    found: list[BayesianBound] = []
    for scale in factors:
        # [k, d], whose square is what is left of the prior's covariance, in its own axes.
        left = _posterior_root(square * scale, factor * scale**0.5) * roots
        floor = min(float(left.square().sum()) / len(roots), _cramer_rao(several, scale))
        std = None
        if pixels:
            std = _batched(prior.from_axes, left.T.contiguous(), several[0], prior).square().sum(dim=1).sqrt()
        found.append(_bound(floor, std, prior, _spread(left) if pixels else math.nan))
    return found


def _posterior_root(square: Tensor, factor: Tensor) -> Tensor:
    """L with `L^T L = (1 + A A^T)^-1`, from `A A^T` and A."""
    matrix = square + torch.eye(len(square)).to(square)
    scale = matrix.diagonal().rsqrt()
    # Elimination is as exact as the matrix with ones on its diagonal is well conditioned (Demmel 1989).
    lower, failed = torch.linalg.cholesky_ex(scale[:, None] * matrix * scale)
    if not int(failed) and float(lower.diagonal().square().min()) > _SMALLEST_PIVOT:
        identity = torch.eye(len(square)).to(square)
        return torch.linalg.solve_triangular(lower, identity, upper=False) * scale
    spectrum = gram_spectrum(square, lambda vectors: factor.T @ vectors)
    return spectrum.vectors.T * (1 + spectrum.values[: spectrum.vectors.shape[1]].square()).rsqrt()[:, None]


def _partial_floor(information: FisherInformation, trace: Estimate, prior: Prior) -> float:
    """The least that any information with these leading directions and this trace leaves.

    Of all matrices B with a given trace, `tr((B + C)^-1)` is least if B lifts the smallest eigenvalues of C to one
    level. C is the prior's precision, to which the leading directions add along the axes of the largest variances; what
    they add elsewhere goes to the trace of B.

    Returns:
        A mean squared error.
    """
    size = information.unknowns
    variances = _repeated(prior.variances, information)
    order = variances.argsort(descending=True)
    kept, beyond = order[:_RESOLVED], order[_RESOLVED:]
    axes = _batched(prior.to_axes, information.vectors, information, prior)
    weighted = axes * _capped(information, prior).sqrt()
    # Three standard errors more, so that the floor stays below the true one.
    rest = max(0.0, size * (trace.value + 3 * trace.error) - float(information.values.sum()))
    budget = rest + float(weighted[beyond].square().sum())
    inner = weighted[kept] * variances[kept].sqrt()[:, None]
    # Variances given the leading directions, in place of eigenvalues of C, which may be infinite.
    root = _posterior_root(inner @ inner.T, inner) * variances[kept].sqrt()
    known = torch.linalg.svdvals(root).square()
    return float(_lifted(torch.cat([known, variances[beyond]]), budget).sum()) / size


def _lifted(variances: Tensor, budget: float) -> Tensor:
    """Variances after precision of a given sum went to the largest of them."""
    ordered = variances.sort(descending=True).values
    precisions = 1 / ordered.clamp(min=torch.finfo(ordered.dtype).tiny)
    counts = torch.arange(1, len(ordered) + 1).to(ordered)
    # The level if the first k are lifted; k is right where it lies between the k-th precision and the next.
    levels = (budget + precisions.cumsum(0)) / counts
    inside = levels >= precisions
    level = levels[int(inside.nonzero().max())] if bool(inside.any()) else levels[0]
    return torch.minimum(ordered, 1 / level)


def _columns(information: FisherInformation, prior: Prior, roots: Tensor) -> Tensor:
    """A with `A A^T = R^T I R` in the prior's axes, `[d, r]`."""
    axes = _batched(prior.to_axes, information.vectors, information, prior)
    return roots[:, None] * axes * _capped(information, prior).sqrt()


def _capped(information: FisherInformation, prior: Prior) -> Tensor:
    largest = float(prior.variances.max())
    return information.values.clamp(max=_LARGEST / largest) if largest > 0 else information.values.clamp(max=_LARGEST)


def _batched(turn: Callable[[Tensor], Tensor], columns: Tensor, information: FisherInformation, prior: Prior) -> Tensor:
    """Turn the axes of each input of a batch, `[N * d, k]`."""
    count = information.unknowns // len(prior.variances)
    if count == 1:
        return turn(columns)
    return torch.cat([turn(part) for part in columns.chunk(count)])


def _repeated(variances: Tensor, information: FisherInformation) -> Tensor:
    return variances.to(information.vectors).repeat(information.unknowns // len(variances))


def _cramer_rao(several: Sequence[FisherInformation], scale: float) -> float:
    """The floor without a prior, which is never below; it has digits where the prior's root has none."""
    return several[0].mse_floor() / scale if len(several) == 1 else math.inf


def _spread(root: Tensor) -> float:
    """Of a squared error whose covariance has this root, `[k, d]`: a sum of independent squares along its axes."""
    total = float(root.square().sum())
    return math.sqrt(2) * float((root @ root.T).norm()) / total if total > 0 else math.nan


def _bound(floor: float, std: Tensor | None, prior: Prior, spread: float = math.nan) -> BayesianBound:
    variance = float(prior.variances.mean())
    return BayesianBound(min(floor, variance), std, variance, prior.name, spread)


def _problems(several: Sequence[FisherInformation], prior: Prior, trace: Estimate | None) -> list[str]:
    if not several:
        return ["information: expected at least one, got none; keep it with leakage_bound(keep_information=True)"]
    found: list[str] = []
    sizes = {one.unknowns for one in several}
    if len(sizes) > 1:
        found.append(f"information: expected the same unknowns everywhere, got {sorted(sizes)}; use equal batches")
    found += size_problems(max(sizes), prior)
    if any(not one.exact for one in several) and (len(several) > 1 or trace is None):
        found.append(
            "information: expected the whole spectrum, got a part of it; give one information with its trace, or "
            "raise exact_unknowns and max_seconds"
        )
    return found


def size_problems(unknowns: int, prior: Prior) -> list[str]:
    """Whether a batch can be one of inputs of this prior."""
    size = len(prior.variances)
    if unknowns % size:
        return [f"prior: expected inputs whose size divides the batch's {unknowns} values, got {size}; use its shape"]
    return []


def wording(prior: Prior, *, noisy: bool, peak: float) -> tuple[str, ...]:
    """For whom the second ceiling holds.

    Args:
        prior: of one input.
        noisy: whether there is noise besides rounding.
        peak: range of the inputs.

    Returns:
        Sentences.
    """
    variance = float(prior.variances.mean())
    alone = f"{10 * math.log10(peak**2 / variance):.1f} dB" if variance > 0 else "exact"
    granted = prior.granted if isinstance(prior, GaussianPrior) else ""
    said = _granted_words(prior.name, granted, alone) if granted else _gaussian_words(prior.name, alone)
    if not noisy:
        said.append("Without noise, the rounding of what is sent counts as noise for the second ceiling.")
    return tuple(said)


def _gaussian_words(name: str, alone: str) -> list[str]:
    return [
        f"With a prior ({name}): no estimate, biased or not, is closer than the second ceiling in the mean over "
        "the noise and over inputs drawn independently from that Gaussian (van Trees), by the information at this "
        "batch in place of its mean over the prior, a local approximation. The prior's mean alone, without any update, "
        f"comes to {alone}.",
        "Real inputs are not Gaussian, and of all priors with one covariance the Gaussian says least: an attacker with "
        "a sharper one (edges and flat regions as in maximum_a_posteriori, values inside the bounds, a generative "
        "model), or an input that is smoother than most, can exceed the second ceiling.",
    ]


def _granted_words(name: str, granted: str, alone: str) -> list[str]:
    """Of a law that is a mixture of Gaussians, of which the attacker is told which one."""
    return [
        f"With a prior ({name}): the second ceiling holds for attackers who know of inputs no more than the prior of "
        "photographs that maximum_a_posteriori and auto use, namely how much neighboring pixels differ. If inputs are "
        "drawn from it, no estimate, biased or not, is closer in the mean over the noise and over inputs, even if "
        f"{granted} is told beforehand (van Trees), by the information at this batch in place of its mean over the "
        f"prior, a local approximation. What is told, without any update, comes to {alone}.",
        "An attacker who knows more (a generative model, a training set that holds the very input), or an input that "
        "is likelier under that prior than most, can exceed the second ceiling.",
    ]
