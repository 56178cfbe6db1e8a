"""What the transformers of the zoo share: sizes, attention, the layer after it, and which positions hold tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradleak.errors import refuse
from gradleak.zoo.models.building import text_problems

INITIAL_STD = 0.02
"""Standard deviation of the first weights of BERT and GPT-2."""


@dataclass(frozen=True)
class TransformerSizes:
    """What decides the shape of a transformer; see `decoder` and `encoder` for each number."""

    vocabulary: int
    length: int
    num_classes: int | None
    width: int
    layers: int
    heads: int
    inner: int | None
    tied: bool
    padding: int | None

    def problems(self) -> list[str]:
        """Numbers out of range, one line each."""
        names = ("length", "num_classes", "width", "layers", "heads", "inner")
        return text_problems(self.vocabulary, self.padding, {name: getattr(self, name) for name in names})

    @property
    def units(self) -> int:
        """Of the feed-forward layers."""
        return 4 * self.width if self.inner is None else self.inner

    @property
    def outputs(self) -> int:
        """Numbers that the last layer gives for what it classifies."""
        return self.vocabulary if self.num_classes is None else self.num_classes


class SelfAttention(nn.Module):
    """Attention of a sequence to itself in several heads (Vaswani et al., NeurIPS 2017, section 3.2).

    Args:
        width: numbers of a position.
        heads: a divisor of `width`.
        causal: whether a position sees only itself and those before it.
    """

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, rows: Tensor, kept: Tensor | None) -> Tensor:
        """From `[N, T, width]` to the same shape; `kept` `[N, T]` is false where there is padding."""
        query, key, value = (self._heads(layer(rows)) for layer in (self.query, self.key, self.value))
        if kept is None:
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        else:
            seen = kept[:, None, None, :]
            if self.causal:
                count = rows.shape[1]
                seen = seen & torch.ones(count, count, dtype=torch.bool, device=rows.device).tril()
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, rows: Tensor) -> Tensor:
        """`[N, T, width]` as `[N, heads, T, width / heads]`."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, for each position alone."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)

    def forward(self, rows: Tensor) -> Tensor:
        """From `[N, T, width]` to the same shape."""
        return self.contract(functional.gelu(self.expand(rows)))


def kept_positions(ids: Tensor, attention_mask: Tensor | None, padding: int | None) -> Tensor | None:
    """Which positions hold tokens.

    Args:
        ids: `[N, T]`.
        attention_mask: 1 for tokens and 0 for padding, `[N, T]`; None to find them by `padding`.
        padding: its id; None if there is none.

    Returns:
        True for tokens, `[N, T]`; None if all of them are.
    """
    if attention_mask is not None:
        return attention_mask != 0
    return None if padding is None else ids != padding


def embedded_positions(positions: nn.Embedding, ids: Tensor) -> Tensor:
    """The rows of all positions of ids `[N, T]`, `[T, width]`.

    Returns:
        The first T rows.

    Raises:
        BadInput: when the texts are longer than the embedding.
    """
    count, known = ids.shape[1], positions.num_embeddings
    if count > known:
        refuse([f"length: expected texts of at most {known} tokens (positions of the model), got {count}; cut them"])
    return positions(torch.arange(count, device=ids.device))


def last_kept(rows: Tensor, kept: Tensor | None) -> Tensor:
    """The last token's row of each sequence, `[N, width]` of `[N, T, width]`."""
    if kept is None:
        return rows[:, -1]
    position = (kept.sum(dim=1) - 1).clamp(min=0)
    return rows.gather(1, position[:, None, None].expand(-1, 1, rows.shape[2])).squeeze(1)


def initialize(module: nn.Module) -> None:
    """Weights N(0, 0.02^2) and biases zero, as BERT and GPT-2 begin; layer norms as PyTorch has them."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        nn.init.zeros_(module.bias)
