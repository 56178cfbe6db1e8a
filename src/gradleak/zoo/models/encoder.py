"""A small bidirectional transformer in the style of BERT (Devlin et al., NAACL 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradleak.errors import refuse
from gradleak.zoo.models.attention import (
    FeedForward,
    SelfAttention,
    TransformerSizes,
    embedded_positions,
    initialize,
    kept_positions,
)
from gradleak.zoo.models.building import seeded


class EncoderBlock(nn.Module):
    """Attention to both sides and a feed-forward layer, each added to what came in and followed by a layer norm."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, causal=False)
        self.attention_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, inner)
        self.feed_norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor, kept: Tensor | None) -> Tensor:
        """From `[N, T, width]` to the same shape."""
        rows = self.attention_norm(rows + self.attention(rows, kept))
        return self.feed_norm(rows + self.feed(rows))


class WordHead(nn.Module):
    """From rows to logits over the vocabulary, as in BERT's masked language model."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, vocabulary)

    def forward(self, rows: Tensor) -> Tensor:
        """`[N, T, vocabulary]` of `[N, T, width]`."""
        return self.words(self.norm(functional.gelu(self.dense(rows))))


class ClassHead(nn.Module):
    """From the first position's row to logits of classes, through a linear layer and tanh."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.pool = nn.Linear(width, width)
        self.classes = nn.Linear(width, num_classes)

    def forward(self, rows: Tensor) -> Tensor:
        """`[N, num_classes]` of `[N, T, width]`."""
        return self.classes(torch.tanh(self.pool(rows[:, 0])))


class Encoder(nn.Module):
    """See `encoder`."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.padding = sizes.padding
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.length, sizes.width)
        self.norm = nn.LayerNorm(sizes.width)
        self.blocks = nn.ModuleList(EncoderBlock(sizes.width, sizes.heads, sizes.units) for _ in range(sizes.layers))
        self.head = (WordHead if sizes.num_classes is None else ClassHead)(sizes.width, sizes.outputs)
        self.apply(initialize)
        if sizes.tied and isinstance(self.head, WordHead):
            self.head.words.weight = self.tokens.weight

    def get_input_embeddings(self) -> nn.Embedding:
        """What embeds the tokens."""
        return self.tokens

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits `[N, T, vocabulary]`, or `[N, num_classes]`, of ids `[N, T]`."""
        kept = kept_positions(ids, attention_mask, self.padding)
        rows = self.norm(self.tokens(ids) + embedded_positions(self.positions, ids))
        for block in self.blocks:
            rows = block(rows, kept)
        return self.head(rows)


def encoder(
    vocabulary: int,
    length: int,
    num_classes: int | None = None,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 2,
    inner: int | None = None,
    tied: bool = True,
    padding: int | None = None,
    seed: int = 0,
) -> Encoder:
    """A post-norm transformer whose positions see both sides, with learned positions and no dropout.

    Weights are N(0, 0.02^2) and biases zero. Query, key, value and output have a linear layer each. There is one kind
    of segment, so it has no embedding.

    Args:
        vocabulary: number of token ids, at least 2.
        length: largest number of positions, at least 1.
        num_classes: of a classifier, by the first position's row; None for a masked language model.
        width: numbers of a position, a multiple of `heads`.
        layers: blocks, at least 1.
        heads: of attention, at least 1.
        inner: units of the feed-forward layers; None for four times the width.
        tied: whether a language model's last layer has the embedding's weights, with a bias of its own.
        padding: id that fills up short texts, to find their ends when no mask is given; None if there is none.
        seed: decides the weights, at least 0.

    Returns:
        A model from ids `[N, T]`, and a mask of the positions that are no padding if there is one, to logits
        `[N, T, vocabulary]` or `[N, num_classes]`.

    Raises:
        BadInput: when a number is out of range.
    """
    sizes = TransformerSizes(vocabulary, length, num_classes, width, layers, heads, inner, tied, padding)
    refuse(sizes.problems())
    return seeded(seed, lambda: Encoder(sizes))
