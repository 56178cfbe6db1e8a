"""Which tokens an embedding's gradient shows: every token of the input adds to its own row.

Rows of tokens that do not occur are zero, unless something else is in them: noise, weight decay, or the gradient of a
model's last layer, when that shares its weight with the embedding. What is left then is a test of each row against what
rows of absent tokens look like, which most rows of a vocabulary are.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows that a shared last layer fills are told from those of the input by a part that is so much above the others'.
_OUTSIDE = 1e3
# Released code for tied embeddings: log-norms above the mean by so many standard deviations; here of robust ones.
_STANDS_OUT = 3.5
_FALSE_SHARE = 0.05
# Weight decay is a common multiple of the weights to this relative accuracy.
_COMMON = 1e-3
_UNEVEN = 1.5
# Nearly all of the smallest rows, samples of rows of each size, and what counts as inside of their span.
_COMMON_SHARE = 0.9
_SAMPLES = 12
_INSIDE = 1e-3
_SINGLE = 1e-6


@dataclass(frozen=True, eq=False)
class Rows:
    """Tokens that an embedding's gradient shows.

    Attributes:
        tokens: ids in rising order, `[K]`.
        probability: that each is in the batch, as far as rows tell, `[K]`; NaN where it cannot be told.
        certain: whether it is exactly these that trained the embedding.
        how: one clause for people.
    """

    tokens: Tensor
    probability: Tensor
    certain: bool
    how: str


def shown_by_rows(
    gradient: Tensor, weight: Tensor, *, tied: bool, exact: bool, noise: float | None, coarse: bool = False
) -> Rows | None:
    """The tokens whose rows were trained by the input.

    Args:
        gradient: of the embedding, `[V, d]`, or an update that is a multiple of it.
        weight: the embedding, `[V, d]`.
        tied: whether the last layer shares it.
        exact: whether nothing but rounding was done to the gradient.
        noise: standard deviation of noise in every entry, or None if it is not known.
        coarse: whether the update is a difference of weights.

    Returns:
        The tokens, or None where all rows are zero.
    """
    rows = gradient.double()
    norms = rows.norm(dim=1)
    present = norms > 0
    if not bool(present.any()):
        return None
    # A zero is no noise, no decay of a weight that is not zero itself, and no last layer leaves one.
    if bool(((norms == 0) & (weight.abs().amax(dim=1) > 0)).any()) and not (
        tied and float(present.double().mean()) > 0.5
    ):
        certain = exact and not tied
        return _rows(
            present, certain, "rows that are not zero" + ("" if exact else ", of which some may have been cut")
        )
    if not tied and exact and noise in {None, 0.0}:
        return _rows(present, True, "rows that are not zero, which are all")
    if tied:
        found = _outside_of_the_last_layer(rows, norms) if exact else None
        return found if found is not None else _standing_out(norms)
    if noise is not None:
        return _above_noise(rows, noise, torch.ones(len(rows), dtype=rows.dtype))
    # What is left of a difference of weights is off by the spacing of the weights' own digits.
    left = _less_decay(rows, weight.double())
    spacing = torch.ldexp(torch.ones_like(left), torch.frexp(weight.double()).exponent)
    return _above_noise(
        left, None, spacing.square().mean(dim=1) if left is not rows or coarse else torch.ones_like(norms)
    )


def _rows(present: Tensor, certain: bool, how: str) -> Rows:
    tokens = present.nonzero()[:, 0].cpu()
    return Rows(tokens, torch.ones(len(tokens), dtype=torch.float64), certain, how)


def _outside_of_the_last_layer(rows: Tensor, norms: Tensor) -> Rows | None:
    """Rows with a part outside of the span of the last layer's inputs, in which all rows of absent tokens lie."""
    # The half of the rows with the smallest norms are those of absent tokens, but for a few.
    small = norms.argsort()[: len(norms) // 2]
    small = small[norms[small] > 0]
    unit = rows / norms.clamp_min(torch.finfo(rows.dtype).tiny)[:, None]
    basis = _common_span(unit[small])
    if basis is None:
        return None
    share = (unit - unit @ basis.T @ basis).norm(dim=1)
    # What rounding leaves outside is that of the rows' own size.
    usual = float(share[small].quantile(_COMMON_SHARE))
    present = share > math.sqrt(_OUTSIDE) * usual
    if not bool(present.any()):
        return None
    clear = float(share[present].min()) > 10 * float(share[~present].max())
    return _rows(present, clear, f"rows outside of the {len(basis)} dimensions that the shared last layer fills")


def _common_span(unit: Tensor) -> Tensor | None:
    """Orthonormal rows `[r, d]` of the smallest span that holds nearly all of some unit rows `[K, d]`, by samples."""
    count, width = unit.shape
    generator = torch.Generator().manual_seed(0)
    size = 4
    while size < min(0.9 * width, count):
        for _ in range(_SAMPLES):
            basis = _spanned(unit[torch.randperm(count, generator=generator)[:size]])
            # Twice, since the first rows may know some directions badly.
            for _ in range(2):
                outside = (unit - unit @ basis.T @ basis).norm(dim=1)
                inside = outside < _INSIDE
                if float(inside.double().mean()) < _COMMON_SHARE:
                    break
                basis = _spanned(unit[inside])
            else:
                if len(basis) < 0.9 * width:
                    return basis
        size *= 2
    return None


def _spanned(unit: Tensor) -> Tensor:
    """Orthonormal rows that span others, up to rounding in single precision."""
    _, values, right = torch.linalg.svd(unit, full_matrices=False)
    return right[values > _SINGLE * values[0]]


def _standing_out(norms: Tensor) -> Rows | None:
    """Rows of a log-norm far above the median's; of a shared layer these are input and target tokens alike."""
    logarithms = norms[norms > 0].log()
    center = logarithms.median()
    spread = 1.4826 * (logarithms - center).abs().median()
    score = (norms.clamp_min(1e-300).log() - center) / spread.clamp_min(1e-12)
    present = score > _STANDS_OUT
    tokens = present.nonzero()[:, 0].cpu()
    if not len(tokens):
        return None
    # How far the rows of absent tokens spread is up to the softmax, so that there is no chance to go by.
    unknown = torch.full((len(tokens),), torch.nan, dtype=torch.float64)
    return Rows(tokens, unknown, False, "rows whose norms stand out, the shared last layer's too, some by chance")


def _less_decay(rows: Tensor, weight: Tensor) -> Tensor:
    """The rows less a common multiple of the weights, if most rows are such a multiple."""
    power = weight.square().sum(dim=1)
    usable = power > 0
    factors = ((rows * weight).sum(dim=1) / power.clamp_min(1e-300))[usable]
    factor = factors.median()
    left = rows - factor * weight
    size = (left.norm(dim=1) / rows.norm(dim=1).clamp_min(1e-300)).median()
    # Rounding of a difference of weights is coarse, so that the share left is compared with all of the row.
    return left if float(size) < math.sqrt(_COMMON) else rows


def _above_noise(rows: Tensor, noise: float | None, scale: Tensor) -> Rows | None:
    """Rows whose power is too large for noise, with at most one in twenty by chance (Benjamini and Hochberg 1995)."""
    # Where the noise is estimated from the rows, its variance is in proportion to the scale.
    width = rows.shape[1]
    power = rows.square().sum(dim=1) / scale
    # The median of a chi-square of many degrees is that many, less 2/3.
    estimated = float(power.median()) / (width - 2 / 3)
    variance = max(estimated if noise is None else noise**2, 1e-300)
    half = torch.tensor(width / 2, dtype=torch.float64)
    # Rounding is no Gaussian noise, and its size is not quite even: an estimate allows for that.
    lower = power / (variance if noise is not None else _UNEVEN * variance)
    chance = torch.special.gammaincc(half.expand_as(power), lower / 2)
    share = _true_share(chance)
    present = share >= 1 - _FALSE_SHARE
    tokens = present.nonzero()[:, 0].cpu()
    if not len(tokens):
        return None
    size = (variance * float(scale.median())) ** 0.5
    how = f"rows above noise of standard deviation {size:.1e}" + (
        "" if noise is not None else ", estimated from most rows"
    )
    return Rows(tokens, share[present].cpu(), False, how)


def _true_share(chance: Tensor) -> Tensor:
    """For every row the share of true ones among all that are no less conspicuous, from the chances of absent rows."""
    order = chance.argsort()
    rates = chance[order] * len(chance) / torch.arange(1, len(chance) + 1, dtype=chance.dtype)
    rates = rates.flip(0).cummin(dim=0).values.flip(0)
    share = torch.empty_like(chance)
    share[order] = 1 - rates.clamp(0, 1)
    return share
