"""Climb from a first guess of label counts to the multiset with the highest evidence, one exchanged label at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.labels.evidence import Explanation, Model, explain, without_foreign_side

_FIRST_STEPS = 12
_MOVE_STEPS = 4
_MAX_MOVES = 12
_CHUNK_NUMBERS = 6_000_000
"""Numbers in one chunk of Jacobians, about 50 MB."""


@dataclass(frozen=True, eq=False)
class Found:
    """The end of a climb.

    Attributes:
        counts: `[C]`, int64.
        probability: of these counts among all multisets that were compared, in [0, 1].
        spread: standard deviation of each count over those, `[C]`.
        strain: squared latents and misfit, divided by the number of equations; about 1 for inputs like the dummies.
    """

    counts: Tensor
    probability: float
    spread: Tensor
    strain: float


def climb(model: Model, counts: Tensor, at_least: Tensor) -> Found:
    """Exchange one label for another as long as the evidence rises.

    Args:
        model: the equations of the update.
        counts: first guess `[C]`, with the right sum.
        at_least: counts that no multiset may fall below, `[C]`.

    Returns:
        The best multiset found, with its share of the evidence.
    """
    classes, width = len(counts), model.prior.factor.shape[1]
    labels = torch.repeat_interleave(torch.arange(classes), counts)
    start = explain(model, labels[None], torch.zeros((1, len(labels), width), dtype=torch.float64), _FIRST_STEPS)
    model = without_foreign_side(model, labels, start.latent[0])
    first = explain(model, labels[None], start.latent, 1)
    latent, best, misfit = first.latent[0], float(first.log_evidence[0]), float(first.misfit[0])
    compared = {tuple(counts.tolist()): best}
    for _ in range(_MAX_MOVES):
        candidates = _exchanges(labels, latent, at_least)
        if not len(candidates):
            break
        explained = _explain_in_chunks(model, candidates, latent)
        for row, value in zip(candidates, explained.log_evidence.tolist(), strict=True):
            compared[tuple(torch.bincount(row, minlength=classes).tolist())] = value
        top = int(explained.log_evidence.argmax())
        if float(explained.log_evidence[top]) <= best:
            break
        best, misfit = float(explained.log_evidence[top]), float(explained.misfit[top])
        labels, latent = candidates[top], explained.latent[top]
    strain = (float(latent.square().sum()) + misfit) / len(model.observed)
    return _summary(torch.bincount(labels, minlength=classes), compared, strain)


def _exchanges(labels: Tensor, latent: Tensor, at_least: Tensor) -> Tensor:
    """Every allowed assignment with one label changed, `[S, N]`; of a class, the example explained worst is changed."""
    strain = latent.square().sum(dim=1)
    rows: list[Tensor] = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) <= int(at_least[label]):
            continue
        example = int(members[int(strain[members].argmax())])
        for other in range(len(at_least)):
            if other != label:
                changed = labels.clone()
                changed[example] = other
                rows.append(changed)
    return torch.stack(rows) if rows else labels.new_empty((0, len(labels)))


def _explain_in_chunks(model: Model, candidates: Tensor, latent: Tensor) -> Explanation:
    size = max(1, _CHUNK_NUMBERS // (len(model.observed) * latent.numel()))
    parts = [
        explain(model, chunk, latent.expand(len(chunk), -1, -1).clone(), _MOVE_STEPS)
        for chunk in candidates.split(size)
    ]
    return Explanation(
        torch.cat([part.latent for part in parts]),
        torch.cat([part.log_evidence for part in parts]),
        torch.cat([part.misfit for part in parts]),
    )


def _summary(counts: Tensor, compared: dict[tuple[int, ...], float], strain: float) -> Found:
    multisets = torch.tensor(list(compared), dtype=torch.float64)
    shares = torch.softmax(torch.tensor(list(compared.values()), dtype=torch.float64), dim=0)
    mean = shares @ multisets
    spread = (shares @ (multisets - mean).square()).sqrt()
    return Found(counts, float(shares[list(compared).index(tuple(counts.tolist()))]), spread, strain)
