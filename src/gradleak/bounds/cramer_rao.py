"""The Cramer-Rao bound of a defended client: exact for a few thousand unknowns, by a few products beyond."""

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradleak.bounds.factors import RANK_TOLERANCE, StreamedFactor, stored, streamed, tangent_rows
from gradleak.bounds.information import FisherInformation
from gradleak.bounds.unknowns import Unknowns
from gradleak.linalg import Estimate, Spectrum, block_lanczos, hutchinson_trace

Method = Literal["svd", "gram", "lanczos"]

LARGEST_STORED = 10**8
"""Entries of a Jacobian that is held, 0.8 GB."""

_LEADING = 32
_ROUNDS = 4
_PROBES = 32


@dataclass(frozen=True, eq=False)
class Measured:
    """What the Jacobian says under a law of noise.

    Attributes:
        information: under it.
        singular_values: of J with rows relative to the noise's own scale, descending.
        mse_floor: see `FisherInformation.mse_floor`; beyond the exact size a number that is certainly below it, as far
            as the estimate of the trace holds.
        mean_information: `tr(I) / d`, with its standard error where it is estimated.
        std: of each input value, `[d]`.
        share: of directions within the wanted standard deviation.
        rank: of J; beyond the exact size the number of directions found.
        method: how.
        error: of the largest error of a singular value, in units of the largest.
    """

    information: FisherInformation
    singular_values: Tensor
    mse_floor: float
    mean_information: Estimate
    std: Tensor
    share: float
    rank: int
    method: Method
    error: float


def exact_cost(problem: Unknowns) -> float:
    """Seconds that the exact route takes, from the time of one block of products."""
    operator = problem.by_inputs
    equations, unknowns = operator.shape
    count = min(operator.chunk, equations, unknowns)
    tried = torch.ones(unknowns, count, dtype=operator.at.dtype, device=operator.at.device)
    begin = time.perf_counter()
    operator.matmat(tried)
    block = time.perf_counter() - begin
    # A symmetric eigenvalue problem takes about 10 d^3 operations, of which a core makes some 3e10 in a second.
    return 2.5 * block * min(equations, unknowns) / count + 10 * min(equations, unknowns) ** 3 / 3e10


def measure_exactly(
    problem: Unknowns, scales: list[Tensor], stds: list[float], wanted: float, generator: torch.Generator
) -> list[Measured]:
    """All of the spectrum, under one or several laws.

    Args:
        problem: the client.
        scales: of each row for each law, relative to `stds`.
        stds: standard deviation of the noise of a row of scale 1.
        wanted: standard deviation for `Measured.share`.
        generator: for checks in random directions.

    Returns:
        One for each law.
    """
    rows = tangent_rows(problem, scales, generator)
    unknowns = problem.by_inputs.shape[1]
    spectra: list[Spectrum] = []
    if rows.size * unknowns <= LARGEST_STORED:
        factor = stored(problem, rows)
        spectra = [factor.spectrum(scale) for scale in scales]
    else:
        spectra = [streamed(problem, scale).spectrum() for scale in scales]
    method: Method = "svd" if min(rows.size, unknowns) <= 512 else "gram"
    return [_complete(spectrum, std, wanted, method) for spectrum, std in zip(spectra, stds, strict=True)]


def measure_by_products(
    problem: Unknowns, scales: list[Tensor], stds: list[float], wanted: float, generator: torch.Generator
) -> list[Measured]:
    """The leading part of the spectrum and the trace of the rest, from a few hundred products.

    For any orthonormal basis `(Q, R)`, `tr(I^-1) >= tr((Q^T I Q)^-1) + tr((R^T I R)^-1)`, and the second is at least
    the square of its dimension over the trace of `R^T I R`. With Q the leading directions this is far above
    `d^2 / tr(I)`.

    Args:
        problem: as in `measure_exactly`.
        scales: likewise.
        stds: likewise.
        wanted: likewise.
        generator: of the random blocks and probes.

    Returns:
        One for each law.
    """
    return [_leading(streamed(problem, scale), std, wanted, generator) for scale, std in zip(scales, stds, strict=True)]


def _complete(spectrum: Spectrum, std: float, wanted: float, method: Method) -> Measured:
    values, size = spectrum.values, len(spectrum.vectors)
    largest = float(values[0]) if len(values) else 0.0
    rank = int((values > RANK_TOLERANCE * largest).sum())
    information = FisherInformation((values[:rank] / std).square(), spectrum.vectors[:, :rank])
    padded = torch.cat([values, values.new_zeros(size - len(values))])
    return Measured(
        information,
        padded,
        information.mse_floor(),
        Estimate(information.mean(), 0.0),
        information.std(),
        information.share_within(wanted),
        rank,
        method,
        float(spectrum.errors.max()) / largest if largest else 0.0,
    )


def _leading(factor: StreamedFactor, std: float, wanted: float, generator: torch.Generator) -> Measured:
    size = factor.size
    spectrum = block_lanczos(factor.product, size, _LEADING, generator, rounds=_ROUNDS, like=factor.operator.at)
    found = int((spectrum.values > RANK_TOLERANCE * spectrum.values[:1]).sum())
    information = FisherInformation((spectrum.values[:found] / std).square(), spectrum.vectors[:, :found], exact=False)
    rest = hutchinson_trace(
        factor.product, size, _PROBES, generator, like=factor.operator.at, beside=information.vectors
    )
    rest = Estimate(max(0.0, rest.value) / std**2, rest.error / std**2)
    # Three standard errors more, so that the floor stays below the true one.
    beyond, below = size - found, rest.value + 3 * rest.error
    inverse = float((1 / information.values).sum()) + (beyond**2 / below if below else math.inf if beyond else 0.0)
    signs = torch.randint(2, (len(factor.scale), _PROBES), generator=generator).to(factor.scale) * 2 - 1
    diagonal = (factor.transposed(signs) / std).square().mean(dim=1)
    return Measured(
        information,
        spectrum.values,
        inverse / size,
        Estimate((float(information.values.sum()) + rest.value) / size, rest.error / size),
        diagonal.rsqrt(),
        information.share_within(wanted),
        found,
        "lanczos",
        float(spectrum.errors.max() / spectrum.values[0]) if found else 0.0,
    )
