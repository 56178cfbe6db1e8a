"""What answers about texts score that never saw the update.

Both take the shape of a text from the reference: its length, and the special tokens at their places, which a model's
public tokenizer gives away. Only the words are guessed.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradleak.tokens import TokenSpace

if TYPE_CHECKING:
    from gradleak.captures import Truth


def frequent_tokens(
    truth: "Truth", reference_inputs: Tensor, space: TokenSpace, *, generator: torch.Generator
) -> Tensor:
    """The most frequent tokens of `reference_inputs` `[M, T]`, each once, the most frequent first.

    Returns:
        Ids `[N, T]`.
    """
    shapes, words = _shapes(truth, reference_inputs, space, generator)
    counts = _counts(reference_inputs, space)
    ranked = counts.argsort(descending=True, stable=True)[: max(1, int((counts > 0).sum()))]
    places = (words.long().cumsum(dim=1) - 1).clamp(min=0) % len(ranked)
    return torch.where(words, ranked[places], shapes)


def random_tokens(truth: "Truth", reference_inputs: Tensor, space: TokenSpace, *, generator: torch.Generator) -> Tensor:
    """Independent draws from the frequencies of tokens in `reference_inputs` `[M, T]`.

    Returns:
        Ids `[N, T]`.
    """
    shapes, words = _shapes(truth, reference_inputs, space, generator)
    counts = _counts(reference_inputs, space)
    weights = counts.double() if bool(counts.any()) else torch.ones(space.vocabulary, dtype=torch.float64)
    drawn = torch.multinomial(weights, words.numel(), replacement=True, generator=generator).reshape(words.shape)
    return torch.where(words, drawn, shapes)


def _shapes(truth: "Truth", reference: Tensor, space: TokenSpace, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Texts of the reference `[N, T]` drawn for their shape, and where they have words."""
    reference = reference.detach().cpu().long()
    shapes = reference[torch.randint(len(reference), (len(truth.inputs),), generator=generator)]
    return shapes, _words(shapes, space)


def _words(tokens: Tensor, space: TokenSpace) -> Tensor:
    hidden = [token for token in (*space.special, space.padding) if token is not None]
    return ~torch.isin(tokens, torch.tensor(hidden, dtype=tokens.dtype))


def _counts(reference: Tensor, space: TokenSpace) -> Tensor:
    """How often each token occurs `[V]`, special ones aside."""
    reference = reference.detach().cpu().long()
    return torch.bincount(reference[_words(reference, space)], minlength=space.vocabulary)
