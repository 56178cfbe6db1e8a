"""TAG, gradient attack on transformer-based language models (Deng et al., Findings of EMNLP 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.searched_targets import LabelPart
from gradleak.attacks.text.embedded import BERT_RMS
from gradleak.attacks.text.search import TextInversion
from gradleak.optim import Adam, WarmLinear


@dataclass(frozen=True)
class TagDistance:
    """`1/2 sum_l (||g'_l - g_l||_2^2 + alpha w_l ||g'_l - g_l||_1)` (Deng et al. 2021, equation 6).

    The weights fall from 1 at the first tensor to 1/L at the last of L, as in the `breaching` package: the paper says
    only that layers near the input count more.

    Args:
        alpha: weight of the absolute differences, at least 0.
    """

    alpha: float = 0.1

    def __call__(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The distance.

        Returns:
            A scalar.
        """
        count = len(observed)
        terms: list[Tensor] = []
        for layer, (name, value) in enumerate(observed.items()):
            difference = simulated[name] - value
            weight = self.alpha * (count - layer) / count
            terms.append(difference.square().sum() + weight * difference.abs().sum())
        return 0.5 * torch.stack(terms).sum()


def clamped_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """0.1 N(0, 1) within [-0.1, 0.1], TAG's start."""
    return (0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(-0.1, 0.1)


def tag(
    *,
    steps: int = 1000,
    lr: float = 0.05,
    alpha: float = 0.1,
    labels: LabelPart = "evidence",
    begin: int | None = None,
    end: int | None = None,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> TextInversion:
    """TAG: squared and absolute differences of the gradients of all layers but the embedding, minimized by AdamW.

    Numbers as in the `breaching` package: `TagDistance` with alpha 0.1, AdamW with lr 0.05 and weight decay 0.01, 50
    warm-up steps and a linear decay over 1000, gradients clipped to norm 1, start 0.1 N(0, 1) within 0.1. All are in
    units in which the embedding's entries are as large as BERT's.

    Args:
        steps: optimizer steps; fewer if `max_evaluations` allows only fewer, so that the schedule still ends.
        lr: learning rate.
        alpha: weight of the absolute differences.
        labels: where they are not given, see `Inversion`; `"next_tokens"` for causal language models.
        begin: id with which every text begins, if the attacker knows one.
        end: id with which every text ends, if the attacker knows one.
        restarts: independent starts.
        max_evaluations: over all restarts together; None leaves it to `steps`.
        max_seconds: wall time; None leaves it to `steps`.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    if max_evaluations is not None:
        steps = max(1, min(steps, max_evaluations // restarts - 1))
    search = Inversion(
        name="tag",
        objective=TagDistance(alpha),
        optimizer=lambda _count: Adam(
            steps=steps, lr=lr, weight_decay=0.01, schedule=WarmLinear(min(50, steps // 20)), clip=1.0
        ),
        labels=labels,
        start=clamped_normal,
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )
    return TextInversion(search, begin, end, rms=BERT_RMS)
