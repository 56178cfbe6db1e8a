"""Small tasks on texts with random private batches on which many tests run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.seeds import stage_generator
from gradleak.tokens import masked_tokens, next_tokens
from gradleak.zoo.models.building import seeded

VOCABULARY, LENGTH = 30, 7
SPACE = gl.TokenSpace(VOCABULARY, LENGTH, padding=0, mask=4, special=(0, 1, 2, 3, 4))


@dataclass(frozen=True, eq=False)
class Text:
    """A task on texts of several lengths with its private batch."""

    name: str
    task: gl.Task
    inputs: Tensor
    targets: Tensor


def texts(count: int, seed: int = 0, lengths: tuple[int, ...] = (7, 4, 5, 6)) -> Tensor:
    """Random ids that begin with 2 and end with 3, padded with 0."""
    rows = torch.randint(5, VOCABULARY, (count, LENGTH), generator=stage_generator(seed, "texts"))
    rows[:, 0] = 2
    for row, length in zip(rows, (lengths * count)[:count], strict=True):
        row[length - 1] = 3
        row[length:] = 0
    return rows


def hugging_face(kind: str, **settings: object) -> nn.Module:
    """A tiny model of transformers, without dropout, seeded."""
    import transformers as hf

    small: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, **settings}
    if kind == "gpt2":
        rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        small = {"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 8, **rates, **small}
        return seeded(0, lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**small)))
    small = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, **small}
    if kind == "llama":
        return seeded(0, lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**small)))
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = hf.BertConfig(max_position_embeddings=8, **rates, **small)
    made = hf.BertForMaskedLM if kind == "bert" else hf.BertForSequenceClassification
    return seeded(0, lambda: made(config))


class Recurrent(nn.Module):
    """Words through an LSTM, whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.lstm = nn.LSTM(8, 10, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0][:, -1])


class Encoder(nn.Module):
    """PyTorch's own encoder, whose mean is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens), src_key_padding_mask=tokens == 0).mean(dim=1))


class Bag(nn.Module):
    """The mean of the words' rows, through a smooth layer; the row of padding is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8, padding_idx=0)
        self.order = nn.Conv1d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.order(self.embed(tokens).transpose(1, 2))).mean(dim=2))


PLAIN: dict[str, Callable[[], nn.Module]] = {"lstm": Recurrent, "encoder": Encoder, "bag": Bag}
HUGGING_FACE = ("gpt2", "llama", "bert", "bert-classifier")


def text(kind: str, count: int = 3, **settings: object) -> Text:
    """A task of one kind, in float64."""
    inputs = texts(count)
    classes = torch.randint(3, (count,), generator=stage_generator(0, "classes"))
    if kind in PLAIN:
        return Text(kind, gl.Task(seeded(0, PLAIN[kind]).double(), SPACE, 3), inputs, classes)
    model = hugging_face(kind, **({"num_labels": 3} if kind == "bert-classifier" else {}), **settings).double()
    if kind == "bert-classifier":
        return Text(kind, gl.Task(model, SPACE, 3), inputs, classes)
    task = gl.Task(model, SPACE, VOCABULARY, classified="token")
    if kind == "bert":
        return Text(kind, task, *masked_tokens(inputs, SPACE, stage_generator(0, "mask"), share=0.4))
    return Text(kind, task, inputs, next_tokens(inputs, 0))


def without_padding(made: Text) -> Text:
    """The same where the attacker's space has no padding, and every text fills it."""
    return replace(made, task=replace(made.task, space=replace(SPACE, padding=None)), inputs=texts(3, lengths=(7,)))
