"""How much of a text was recovered: by position, as a set, by common words in order, and whole."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.errors import missing_extra, refuse
from gradleak.scoring.pairing import UNPAIRED
from gradleak.tokens import NO_TOKEN, TokenSpace


@dataclass(frozen=True, eq=False)
class TextScores:
    """One row for each true text, every column float64 `[N]` in [0, 1]; NaN where nothing was returned for it.

    Padding is no part of a text. ROUGE is that of Lin (2004), F-measures without stemming: on words of the readable
    texts if the space has `to_text`, else on the ids that are not special.

    Attributes:
        token_accuracy: share of the positions of the true text with the right token.
        token_recall: share of its distinct tokens that occur anywhere in the paired text.
        rouge1: common words.
        rouge2: common pairs of successive words; 1 for two equal texts of a single word.
        rougeL: longest common subsequence of words.
        exact: 1 if every token and the length are right, else 0.
    """

    token_accuracy: Tensor
    token_recall: Tensor
    rouge1: Tensor
    rouge2: Tensor
    rougeL: Tensor  # noqa: N815  # the measure's own spelling, on which the contract relies
    exact: Tensor


def pair_texts(reconstructed: Tensor, true: Tensor, space: TokenSpace) -> Tensor:
    """Pair texts `[M, T]` with true ones `[N, T]` one-to-one, with the most tokens at their positions.

    Where that leaves a choice, common tokens at other positions decide.

    Returns:
        For each true text the index of its partner, int64 `[N]`; -1 where none is left.

    Raises:
        BadInput: when the shapes do not fit.
    """
    if reconstructed.dim() != 2 or true.dim() != 2 or reconstructed.shape[1] != true.shape[1]:
        refuse(
            [
                f"inputs: expected token ids of shape [N, {true.shape[-1]}] as in the truth, got "
                f"{list(reconstructed.shape)}; pad them alike"
            ]
        )
    pairing = torch.full((len(true),), UNPAIRED, dtype=torch.int64)
    if len(reconstructed) == 0 or len(true) == 0:
        return pairing
    from scipy.optimize import linear_sum_assignment  # slow to import

    cost = torch.zeros(len(reconstructed), len(true), dtype=torch.float64)
    for column, text in enumerate(true):
        kept = _kept(text, space)
        right = (reconstructed == text)[:, kept].double().mean(dim=1)
        common = (
            torch.stack([(reconstructed == token).any(dim=1) for token in text[kept].unique()]).double().mean(dim=0)
        )
        cost[:, column] = -right - 1e-3 * common
    # Rows without anything are the last choice.
    cost[(reconstructed == NO_TOKEN).all(dim=1)] = 1.0
    rows, columns = linear_sum_assignment(cost.numpy())
    # By index of the true text, see `pair`.
    pairing[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return pairing


def in_true_order_of_texts(reconstructed: Tensor, pairing: Tensor) -> Tensor:
    """Texts `[M, T]` in true order `[N, T]`, `NO_TOKEN` where `pairing` is -1."""
    ordered = torch.full((len(pairing), reconstructed.shape[1]), NO_TOKEN, dtype=torch.int64)
    paired = pairing != UNPAIRED
    ordered[paired] = reconstructed.detach().cpu().long()[pairing[paired]]
    return ordered


def text_scores(ordered: Tensor, true: Tensor, space: TokenSpace) -> TextScores:
    """Score texts that are in true order already.

    Args:
        ordered: ids `[N, T]`, `NO_TOKEN` where nothing is known.
        true: ids `[N, T]`.
        space: of both.

    Returns:
        One row for each.

    Raises:
        missing_extra: a `BadInput`, when the package that measures ROUGE is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise missing_extra("rouge-score", "text", "scores of texts") from error
    words = _Words() if space.to_text is not None else _Split()
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False, tokenizer=words)
    rows: list[tuple[float, ...]] = []
    for found, text in zip(ordered.cpu(), true.cpu(), strict=True):
        if bool((found == NO_TOKEN).all()):
            rows.append((math.nan,) * 6)
            continue
        kept = _kept(text, space)
        tokens = text[kept].unique()
        exact = bool((torch.where(_kept(found, space), found, NO_TOKEN) == torch.where(kept, text, NO_TOKEN)).all())
        measured = scorer.score(readable(text, space), readable(found, space))
        rouge = [float(measured[name].fmeasure) for name in ("rouge1", "rouge2", "rougeL")]
        # A text of one word has no pair; two equal ones are no failure.
        rouge[1] = 1.0 if exact else rouge[1]
        right = (found == text)[kept].double().mean()
        recall = torch.isin(tokens, found).double().mean()
        rows.append((float(right), float(recall), *rouge, float(exact)))
    return TextScores(*torch.tensor(rows, dtype=torch.float64).reshape(-1, 6).unbind(dim=1))


def readable(tokens: Tensor, space: TokenSpace) -> str:
    """One text `[T]` as people read it, without padding and special tokens; ids where the space knows no words.

    Args:
        tokens: ids, `NO_TOKEN` where nothing is known.
        space: of the text.

    Returns:
        The text, by the space's `to_text` if it has one.
    """
    hidden = {NO_TOKEN, space.padding, *space.special}
    kept = [int(token) for token in tokens.tolist() if int(token) not in hidden]
    return " ".join(map(str, kept)) if space.to_text is None else space.to_text(kept)


class _Words:
    """What the library takes for words, of every alphabet: its own rule leaves letters beyond a to z out."""

    def tokenize(self, text: str) -> Sequence[str]:
        return re.findall(r"[^\W_]+", text.lower())


class _Split:
    """Words are what spaces part."""

    def tokenize(self, text: str) -> Sequence[str]:
        return text.split()


def _kept(tokens: Tensor, space: TokenSpace) -> Tensor:
    """Which positions hold a token of the text, bool like `tokens`."""
    return torch.ones_like(tokens, dtype=torch.bool) if space.padding is None else tokens != space.padding
