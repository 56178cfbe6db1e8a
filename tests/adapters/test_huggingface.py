"""Hugging Face's models and tokenizers: built, saved and loaded without a network, and everything that does not fit."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gradleak as gl
from gradleak.adapters import huggingface
from gradleak.adapters.huggingface import (
    CONFIGURED_MODELS,
    SubwordTokenizer,
    language_task,
    load_model,
    load_tokenizer,
    train_subwords,
)
from gradleak.audits.by_name import dataset_named
from gradleak.errors import BadInput
from gradleak.tokens import Objective
from gradleak.zoo.data import load, messages, text_dataset, with_objective
from gradleak.zoo.models import TextModelCard, decoder

pytest.importorskip("transformers")

LENGTH = 8


@pytest.fixture(scope="module")
def tokenizer() -> SubwordTokenizer:
    return train_subwords(messages().lines, 300)


def model_of(card: TextModelCard, objective: Objective, seed: int = 0) -> torch.nn.Module:
    classes = 4 if objective == "classification" else None
    return card.factory(vocabulary=300, length=LENGTH, num_classes=classes, width=8, layers=1, padding=0, seed=seed)


@pytest.mark.parametrize("card", CONFIGURED_MODELS, ids=lambda card: card.name)
def test_families_are_tasks_whose_gradient_the_candidate_reproduces(
    card: TextModelCard, tokenizer: SubwordTokenizer
) -> None:
    data = text_dataset(messages(), tokenizer, length=LENGTH)
    for objective in card.objectives:
        own = with_objective(data, objective)
        task = language_task(model_of(card, objective), tokenizer, LENGTH, objective)
        assert task.classified == own.classified
        observation, _ = gl.capture(task, own.inputs[:2], own.targets[:2], seed=0)
        # By PyTorch's own backward pass at the ids.
        outputs: Any = task.model(own.inputs[:2], attention_mask=(own.inputs[:2] != 0).long()).logits
        classes = own.targets[:2].flatten()
        loss = torch.nn.functional.cross_entropy(outputs.reshape(len(classes), -1), classes)
        names = [name for name, _ in task.model.named_parameters()]
        found = torch.autograd.grad(loss, list(task.model.parameters()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(names, found, strict=True):
            torch.testing.assert_close(observation.update.tensors[name], gradient, rtol=1e-4, atol=1e-6)
    weights = [model_of(card, card.objectives[0], seed).state_dict() for seed in (0, 0, 1)]
    name = next(name for name in weights[0] if "word_embeddings" in name or "wte" in name or "embed_tokens" in name)
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


def test_parts_of_words_come_back_as_they_were(tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    line = messages().lines[3]
    assert tokenizer.text(tokenizer.ids(line)) == line
    assert tokenizer.text([*tokenizer.ids(line), 299 + 5]) == line  # a spare row of an embedding
    tokenizer.inner.save(str(tmp_path / "words.json"))
    assert load_tokenizer(tmp_path / "words.json").ids(line) == tokenizer.ids(line)
    with pytest.raises(BadInput, match=r"words.jso: .*|expected a tokenizer's JSON"):
        load_tokenizer(tmp_path / "gone.json")
    with pytest.raises(BadInput, match="more than 261"):
        train_subwords(messages().lines, 261)


def test_folders_are_read_and_pickles_are_not(tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    model: Any = model_of(CONFIGURED_MODELS[1], "causal", seed=3)
    model.save_pretrained(tmp_path / "model")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer.inner, pad_token="[PAD]", mask_token="[MASK]")
    fast.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    task = language_task(again, load_tokenizer(str(tmp_path / "model")), LENGTH)
    assert task.space == language_task(model, fast, LENGTH).space
    classifier: Any = load_model(tmp_path / "model", "classification", num_classes=3)
    assert classifier.config.num_labels == 3
    data = dataset_named("messages", {"tokenizer": str(tmp_path / "model"), "length": LENGTH})
    assert data.tokens is not None
    assert data.tokens.vocabulary == 300
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(BadInput, match="expected weights in .safetensors files, got .*pytorch_model.bin"):
        load_model(tmp_path / "model")
    for source, text in ((tmp_path / "gone", "nothing there"), ("./gone", "nothing there")):
        with pytest.raises(BadInput, match=text):
            load_model(source)


def test_a_name_on_the_hub_without_a_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_arguments: object, **_settings: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(BadInput, match="got no folder here, and from the hub OSError: no network"):
        load_model("somebody/something")


def test_everything_that_does_not_fit_is_told_at_once(tokenizer: SubwordTokenizer) -> None:
    small = decoder(250, 4, width=8)
    with pytest.raises(BadInput) as caught:
        language_task(small, tokenizer, LENGTH)
    text = "\n".join(caught.value.problems)
    assert "expected at most 250 ids (rows of the model's embedding), got 300" in text
    assert "expected at most 4 (positions of the model), got 8" in text
    without = train_subwords(messages().lines, 300).inner
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(BadInput) as caught:
        language_task(decoder(300, 8, width=8), PreTrainedTokenizerFast(tokenizer_object=without), LENGTH, "masked")
    text = "\n".join(caught.value.problems)
    assert "expected an id for padding, got none" in text
    assert "expected an id for hidden tokens, got none" in text
    with pytest.raises(BadInput, match="expected an embedding of tokens"):
        language_task(torch.nn.Linear(3, 3), tokenizer, LENGTH)
    model: Any = model_of(CONFIGURED_MODELS[1], "classification")
    model.config.pad_token_id = None
    with pytest.raises(BadInput, match="expected config.pad_token_id 0"):
        language_task(model, tokenizer, LENGTH, "classification")


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: huggingface.llama(30, 8, width=8, heads=2, key_value_heads=3), "key_value_heads: expected a divisor"),
    (lambda: huggingface.llama(30, 8, width=6, heads=2), "width: expected an even number"),
    (lambda: huggingface.bert(30, 8, width=9, heads=2), "heads: expected a divisor"),
]


@pytest.mark.parametrize(("make", "text"), BAD)
def test_bad_sizes(make: Callable[[], object], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        make()


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match=r"pip install 'gradleak\[text\]'"):
        huggingface.gpt2(30, 8, width=8)
    assert load("messages").tokens is not None
