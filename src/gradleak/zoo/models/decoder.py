"""A small causal language model in the style of GPT-2 (Radford et al., 2019)."""

from torch import Tensor, nn

from gradleak.errors import refuse
from gradleak.zoo.models.attention import (
    FeedForward,
    SelfAttention,
    TransformerSizes,
    embedded_positions,
    initialize,
    kept_positions,
    last_kept,
)
from gradleak.zoo.models.building import seeded


class DecoderBlock(nn.Module):
    """Causal attention and a feed-forward layer, each after a layer norm and added to what came in."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=True)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, inner)

    def forward(self, rows: Tensor, kept: Tensor | None) -> Tensor:
        """From `[N, T, width]` to the same shape."""
        rows = rows + self.attention(self.attention_norm(rows), kept)
        return rows + self.feed(self.feed_norm(rows))


class Decoder(nn.Module):
    """See `decoder`."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.padding, self.classifies = sizes.padding, sizes.num_classes is not None
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.length, sizes.width)
        self.blocks = nn.ModuleList(DecoderBlock(sizes.width, sizes.heads, sizes.units) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.outputs, bias=self.classifies)
        self.apply(initialize)
        if sizes.tied and not self.classifies:
            self.head.weight = self.tokens.weight

    def get_input_embeddings(self) -> nn.Embedding:
        """What embeds the tokens."""
        return self.tokens

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits `[N, T, vocabulary]`, or `[N, num_classes]`, of ids `[N, T]`."""
        kept = kept_positions(ids, attention_mask, self.padding)
        rows = self.tokens(ids) + embedded_positions(self.positions, ids)
        for block in self.blocks:
            rows = block(rows, kept)
        rows = self.norm(rows)
        return self.head(last_kept(rows, kept) if self.classifies else rows)


def decoder(
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
) -> Decoder:
    """A pre-norm transformer whose positions see only what comes before them, with learned positions and no dropout.

    Weights are N(0, 0.02^2) and biases zero. Query, key, value and output have a linear layer each.

    Args:
        vocabulary: number of token ids, at least 2.
        length: largest number of positions, at least 1.
        num_classes: of a classifier, by the last token's row; None for a language model that predicts the next token.
        width: numbers of a position, a multiple of `heads`.
        layers: blocks, at least 1.
        heads: of attention, at least 1.
        inner: units of the feed-forward layers; None for four times the width.
        tied: whether a language model's last layer has the embedding's weights; it has no bias.
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
    return seeded(seed, lambda: Decoder(sizes))
