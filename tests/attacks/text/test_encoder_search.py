"""Exact texts from encoders: whole batches, order, lengths, hidden words, and where it does not apply."""

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.text.encoder_search import allowed_tokens, dager_encoder
from gradleak.attacks.text.hidden_words import hidden_words
from gradleak.attacks.text.span import span_test
from gradleak.seeds import stage_generator
from gradleak.tokens import IGNORED, masked_tokens
from gradleak.zoo.models.building import seeded
from tests.attacks.text.models import VOCABULARY, gpt2, ids, plain_encoder

BEGIN, END, MASK = 1, 2, 3


def bert(*, masked: bool, tied: bool = True, width: int = 64, length: int = 10) -> gl.Task:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3,
        tie_word_embeddings=tied, initializer_range=0.1,
    )  # fmt: skip
    kind = transformers.BertForMaskedLM if masked else transformers.BertForSequenceClassification
    space = gl.TokenSpace(VOCABULARY, length, padding=0, mask=MASK, special=(BEGIN, END))
    model = seeded(0, lambda: kind(config)).eval()
    if masked:
        return gl.Task(model, space, num_classes=VOCABULARY, classified="token")
    return gl.Task(model, space, num_classes=3)


def texts(lengths: tuple[int, ...], length: int = 10, seed: int = 0) -> Tensor:
    """Begin mark, random words of which some repeat, end mark, padding."""
    generator = stage_generator(seed, "texts")
    rows = torch.zeros(len(lengths), length, dtype=torch.long)
    for row, size in zip(rows, lengths, strict=True):
        row[:size] = torch.randint(MASK + 1, MASK + 21, (size,), generator=generator)
        row[0], row[size - 1] = BEGIN, END
    return rows


def rows_of(tokens: Tensor) -> list[tuple[int, ...]]:
    return sorted(tuple(int(token) for token in row) for row in tokens)


@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-unknown"])
def test_a_batch_of_a_classifier_is_recovered_with_lengths_and_labels(known: bool) -> None:
    task, inputs, labels = bert(masked=False), texts((10, 7, 8)), torch.tensor([2, 0, 1])
    threat = gl.ThreatModel(batch_size_known=known)
    observation, truth = gl.capture(task, inputs, labels, threat=threat)
    before = {name: tensor.clone() for name, tensor in observation.update.tensors.items()}
    found = dager_encoder()(observation, seed=1)
    assert found.status == "converged"
    assert rows_of(found.inputs) == rows_of(inputs)
    scores = gl.score(found, truth)
    assert scores.text is not None
    assert bool((scores.text.exact == 1).all())
    labelled = {tuple(row.tolist()): int(label) for row, label in zip(found.inputs, found.targets, strict=True)}
    assert [labelled[tuple(row.tolist())] for row in inputs] == labels.tolist()
    # Nothing that the caller holds was changed.
    assert all(torch.equal(before[name], tensor) for name, tensor in observation.update.tensors.items())


def test_linked_positions_allow_more_tokens_than_a_batch_has_texts() -> None:
    observation, _ = gl.capture(bert(masked=False), texts((10, 10, 10)), torch.tensor([0, 1, 2]))
    test = span_test(observation)
    first = test.best(0)
    assert first is not None
    allowed, padding = allowed_tokens(test, first)
    assert padding == 0
    assert max(map(len, allowed)) > 3


@pytest.mark.parametrize("tied", [True, False])
def test_hidden_words_of_a_masked_language_model_are_recovered(tied: bool) -> None:
    task = bert(masked=True, tied=tied)
    assert isinstance(task.space, gl.TokenSpace)
    whole = texts((10, 8), seed=2)
    inputs, targets = masked_tokens(whole, task.space, stage_generator(0, "mask"), share=0.3)
    observation, _ = gl.capture(task, inputs, targets)
    found = dager_encoder()(observation)
    assert found.status == "converged"
    assert rows_of(found.inputs) == rows_of(inputs)
    assert rows_of(found.targets) == rows_of(targets)


def test_hidden_words_that_stand_elsewhere_in_the_text_are_put_in_order() -> None:
    task = bert(masked=True)
    inputs = torch.tensor([[BEGIN, 7, MASK, 8, MASK, 9, MASK, 7, END, 0]])
    targets = torch.full_like(inputs, IGNORED)
    # All are also visible, where the tied embedding mixes both ways; one is hidden that is not masked.
    targets[0, 2], targets[0, 4], targets[0, 6], targets[0, 5] = 8, 7, 9, 9
    observation, _ = gl.capture(task, inputs, targets)
    assert torch.equal(torch.as_tensor(hidden_words(observation, inputs)), targets)


def test_plain_pytorch_layers_without_padding() -> None:
    task = plain_encoder(64)
    inputs = ids(task, 3, seed=3)
    observation, _ = gl.capture(task, inputs, torch.tensor([0, 1, 1]))
    found = dager_encoder()(observation)
    assert found.status == "converged"
    assert rows_of(found.inputs) == rows_of(inputs)


def test_equal_texts_are_counted() -> None:
    inputs = texts((9, 7), seed=4)[[0, 1, 0]]
    observation, _ = gl.capture(bert(masked=False), inputs, torch.tensor([0, 1, 0]))
    found = dager_encoder(restarts=2)(observation)
    assert rows_of(found.inputs) == rows_of(inputs)


def test_a_search_that_ends_early_says_so() -> None:
    observation, _ = gl.capture(bert(masked=False), texts((10, 10, 10)), torch.tensor([0, 1, 2]))
    began = time.perf_counter()
    found = dager_encoder(max_seconds=1e-3)(observation)
    assert time.perf_counter() - began < 5
    assert found.status == "budget"
    assert "no text was found" in found.message
    assert bool((found.inputs == -1).all())


class Bag(nn.Module):
    """Attention without positions: every order of the tokens has the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 48, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens)).mean(dim=1))


def test_it_does_not_apply_without_positions_to_decoders_or_to_too_many_tokens() -> None:
    task = gl.Task(seeded(0, Bag).eval(), gl.TokenSpace(VOCABULARY, 6), num_classes=3)
    observation, _ = gl.capture(task, ids(task, 1), torch.tensor([0]))
    assert "no positions" in dager_encoder()(observation).message
    decoder = gpt2()
    tokens = ids(decoder, 1)
    observation, _ = gl.capture(decoder, tokens, gl.tokens.next_tokens(tokens))
    assert "decoder" in dager_encoder()(observation).message
    narrow = bert(masked=False, width=32)
    inputs = ids(narrow, 6, seed=5)
    observation, _ = gl.capture(narrow, inputs, torch.zeros(6, dtype=torch.long))
    found = dager_encoder()(observation)
    assert found.status == "not_applicable"
    assert "at least as many tokens" in found.message


def test_one_local_step_is_a_gradient() -> None:
    inputs = texts((9, 7), seed=6)
    client = gl.clients.LocalSGD(lr=0.1)
    task = bert(masked=False)
    # In float32 the weights' own digits would leave too little of a small step.
    task = replace(task, model=task.model.double())
    observation, _ = gl.capture(task, inputs, torch.tensor([0, 1]), client=client)
    found = dager_encoder()(observation)
    assert rows_of(found.inputs) == rows_of(inputs)
