"""A screening of a data set as rows, one for each example."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.bounds import Screening


@dataclass(frozen=True)
class ExampleRow:
    """One example.

    Attributes:
        position: in the data set.
        label: its class.
        rank: 1 for the riskiest.
        score: see `Screening.score`, as the others.
        score_error: its standard error.
        trace_score: the score by the trace alone.
        trace: of `J^T J`.
        trace_error: its standard error.
        largest: singular value.
        gradient_norm: of the update.
        norm_rank: 1 for the largest gradient.
        ceiling: PSNR in dB at the noise asked about; None if none was.
    """

    position: int
    label: str
    rank: int
    score: float
    score_error: float
    trace_score: float
    trace: float
    trace_error: float
    largest: float
    gradient_norm: float
    norm_rank: int
    ceiling: float | None


@dataclass(frozen=True, eq=False)
class Screened:
    """All of it, as pages and files show it.

    Attributes:
        model: what was screened with.
        data: name of the data set.
        held: examples that the data set has.
        rows: riskiest first.
        images: inputs by position in the data set.
        bounds: of the inputs.
        noise: std asked about, or None.
        seed: of the choice of examples and of the signs.
        steps: for each draw of signs.
        probes: draws of signs.
        unknowns: input values.
        equations: entries sent.
        seconds: time taken.
        assumptions: in sentences.
    """

    model: str
    data: str
    held: int
    rows: tuple[ExampleRow, ...]
    images: dict[int, Tensor]
    bounds: tuple[float, float]
    noise: float | None
    seed: int
    steps: int
    probes: int
    unknowns: int
    equations: int
    seconds: float
    assumptions: tuple[str, ...]

    def quantiles(self) -> dict[str, float]:
        """Of the scores that are numbers: smallest to largest; NaN without any."""
        scores = torch.tensor([row.score for row in self.rows], dtype=torch.float64)
        scores = scores[scores.isfinite()]
        names = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}
        return {name: float(scores.quantile(at)) if len(scores) else float("nan") for name, at in names.items()}


def rows_of(
    screening: Screening, positions: Sequence[int], labels: Sequence[str], noise: float | None
) -> tuple[ExampleRow, ...]:
    """One row for each example, riskiest first.

    Args:
        screening: of these examples.
        positions: in the data set, in the screening's order.
        labels: likewise.
        noise: std at which ceilings are wanted, or None.

    Returns:
        The rows.
    """
    order: list[int] = screening.riskiest_first().tolist()
    by_norm: list[int] = screening.gradient_norm.nan_to_num(nan=-1).argsort(descending=True, stable=True).tolist()
    norm_ranks: dict[int, int] = {example: rank for rank, example in enumerate(by_norm, start=1)}
    ceilings: list[float] | None = None if noise is None else screening.psnr_ceiling(noise).tolist()
    return tuple(
        ExampleRow(
            position=positions[example],
            label=labels[example],
            rank=rank,
            score=float(screening.score[example]),
            score_error=float(screening.score_error[example]),
            trace_score=float(screening.trace_score[example]),
            trace=float(screening.trace[example]),
            trace_error=float(screening.trace_error[example]),
            largest=float(screening.largest[example]),
            gradient_norm=float(screening.gradient_norm[example]),
            norm_rank=norm_ranks[example],
            ceiling=None if ceilings is None else ceilings[example],
        )
        for rank, example in enumerate(order, start=1)
    )


def rank_agreement(rows: Sequence[ExampleRow]) -> float:
    """Spearman's correlation between ranks by score and by the gradient's norm; NaN for fewer than two rows."""
    if len(rows) < 2:
        return float("nan")
    ranks = torch.tensor([[row.rank, row.norm_rank] for row in rows], dtype=torch.float64).T
    return float(torch.corrcoef(ranks)[0, 1])
