"""Classifiers of texts without attention: by the mean of the embeddings, and by an LSTM."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradleak.errors import refuse
from gradleak.zoo.models.attention import kept_positions, last_kept
from gradleak.zoo.models.building import at_least, seeded, text_problems


class EmbeddingBag(nn.Module):
    """See `embedding_bag`."""

    def __init__(
        self, vocabulary: int, num_classes: int, width: int, hidden: Sequence[int], padding: int | None
    ) -> None:
        super().__init__()
        self.padding = padding
        self.tokens = nn.Embedding(vocabulary, width)
        widths = (width, *hidden)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def get_input_embeddings(self) -> nn.Embedding:
        """What embeds the tokens."""
        return self.tokens

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits `[N, num_classes]` of ids `[N, T]`."""
        rows, kept = self.tokens(ids), kept_positions(ids, attention_mask, self.padding)
        if kept is None:
            return self.layers(rows.mean(dim=1))
        weights = kept.to(rows.dtype) / kept.sum(dim=1, keepdim=True).clamp(min=1)
        return self.layers((rows * weights[..., None]).sum(dim=1))


class Recurrence(nn.Module):
    """One layer of an LSTM without a bias of the state, step by step in plain operations.

    PyTorch's own has no batching rule, so that each restart of an attack would run it by itself, and fused kernels that
    depend on the processor.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(width, 4 * hidden)
        self.states = nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """From `[N, T, width]` to the state after each position, `[N, T, hidden]`."""
        incoming = self.inputs(rows)
        state = memory = rows.new_zeros(rows.shape[0], self.states.in_features)
        states: list[Tensor] = []
        for step in incoming.unbind(dim=1):
            add, keep, new, show = (step + self.states(state)).chunk(4, dim=1)
            memory = torch.sigmoid(keep) * memory + torch.sigmoid(add) * torch.tanh(new)
            state = torch.sigmoid(show) * torch.tanh(memory)
            states.append(state)
        return torch.stack(states, dim=1)


class RecurrentClassifier(nn.Module):
    """See `lstm`."""

    def __init__(
        self, vocabulary: int, num_classes: int, width: int, hidden: int, layers: int, padding: int | None
    ) -> None:
        super().__init__()
        self.padding = padding
        self.tokens = nn.Embedding(vocabulary, width)
        self.recurrent = nn.ModuleList(Recurrence(width if layer == 0 else hidden, hidden) for layer in range(layers))
        self.linear = nn.Linear(hidden, num_classes)

    def get_input_embeddings(self) -> nn.Embedding:
        """What embeds the tokens."""
        return self.tokens

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits `[N, num_classes]` of ids `[N, T]`."""
        kept = kept_positions(ids, attention_mask, self.padding)
        rows = self.tokens(ids)
        for layer in self.recurrent:
            rows = layer(rows)
        # What comes after the last token cannot change its state, so padding needs no packing.
        return self.linear(last_kept(rows, kept))


def embedding_bag(
    vocabulary: int,
    num_classes: int,
    *,
    width: int = 64,
    hidden: Sequence[int] = (),
    padding: int | None = None,
    seed: int = 0,
) -> EmbeddingBag:
    """The mean of a text's embeddings, then linear layers with ReLU between them; the order of words means nothing.

    As in Joulin et al., *Bag of Tricks for Efficient Text Classification*, EACL 2017. Weights are PyTorch's default.

    Args:
        vocabulary: number of token ids, at least 2.
        num_classes: number of logits, at least 1.
        width: numbers of an embedding, at least 1.
        hidden: units of each hidden layer, at least 1 each; empty for one linear layer.
        padding: id that fills up short texts, to find their ends when no mask is given; None if there is none.
        seed: decides the weights, at least 0.

    Returns:
        A model from ids `[N, T]`, and a mask of the positions that are no padding if there is one, to logits
        `[N, num_classes]`.

    Raises:
        BadInput: when a number is out of range.
    """
    problems = text_problems(vocabulary, padding, {"num_classes": num_classes, "width": width})
    for index, units in enumerate(hidden):
        problems += at_least(f"hidden[{index}]", units, 1)
    refuse(problems)
    return seeded(seed, lambda: EmbeddingBag(vocabulary, num_classes, width, hidden, padding))


def lstm(
    vocabulary: int,
    num_classes: int,
    *,
    width: int = 64,
    hidden: int = 64,
    layers: int = 1,
    padding: int | None = None,
    seed: int = 0,
) -> RecurrentClassifier:
    """An LSTM (Hochreiter, Schmidhuber, 1997) over a text's embeddings; its last state gives the class.

    Weights are PyTorch's default.

    Args:
        vocabulary: number of token ids, at least 2.
        num_classes: number of logits, at least 1.
        width: numbers of an embedding, at least 1.
        hidden: units of the LSTM, at least 1.
        layers: of the LSTM, at least 1.
        padding: id that fills up short texts, to find their ends when no mask is given; None if there is none.
        seed: decides the weights, at least 0.

    Returns:
        A model from ids `[N, T]`, and a mask of the positions that are no padding if there is one, to logits
        `[N, num_classes]`.

    Raises:
        BadInput: when a number is out of range.
    """
    sizes = {"num_classes": num_classes, "width": width, "hidden": hidden, "layers": layers}
    refuse(text_problems(vocabulary, padding, sizes))
    return seeded(seed, lambda: RecurrentClassifier(vocabulary, num_classes, width, hidden, layers, padding))
