"""Texts: the bundled messages, files and folders, words as tokens, and the targets of language models."""

from pathlib import Path

import pytest
import torch

from gradleak.errors import BadInput
from gradleak.scoring.texts import readable
from gradleak.tokens import IGNORED, TokenSpace
from gradleak.zoo.data import (
    Dataset,
    WordTokenizer,
    load,
    messages,
    read_texts,
    text_dataset,
    vocabulary_digest,
    with_objective,
)
from gradleak.zoo.data.words import SPECIAL

LINES = ("The cat sat.", "the dog sat down, too!", "A cat")


def written(folder: Path) -> Path:
    folder.mkdir()
    (folder / "cats.txt").write_text("The cat sat.\n\n = A heading = \nA cat\n", encoding="utf-8")
    (folder / "dogs.txt").write_text("The dog sat down, too! It was a dog.\n", encoding="utf-8")
    (folder / ".hidden.txt").write_text("no\n", encoding="utf-8")
    return folder


def test_messages_are_400_different_short_ones() -> None:
    found = messages()
    assert len(found.lines) == len(set(found.lines)) == 400
    assert [found.labels.count(label) for label in range(4)] == [100] * 4
    assert all(5 <= len(line.split()) <= 16 and line.isascii() for line in found.lines)
    data = load("messages")
    assert data.tokens is not None
    rows = data.inputs[:2]
    assert [readable(row, data.tokens) for row in rows] == [line.lower() for line in found.lines[:2]]
    assert torch.equal(data.inputs, load("messages").inputs)


def test_words_are_kept_by_frequency_then_alphabet_and_come_back() -> None:
    tokenizer = WordTokenizer.trained(LINES)
    assert tokenizer.words[: len(SPECIAL) + 4] == (*SPECIAL, "cat", "sat", "the", "!")
    assert tokenizer.text(tokenizer.ids(LINES[1])) == LINES[1]
    small = WordTokenizer.trained(LINES, 7)
    assert small.text(small.ids("The cat sat")) == "[UNK] cat sat"
    assert "<unk>" not in WordTokenizer.trained(["the <unk> cat"]).words  # WikiText's word for a rare one
    with pytest.raises(BadInput, match="vocabulary: expected more than 5"):
        WordTokenizer.trained(LINES, 5)
    with pytest.raises(BadInput, match="expected each word once"):
        WordTokenizer((*SPECIAL, "a", "a"))


def test_files_and_folders(tmp_path: Path) -> None:
    folder = written(tmp_path / "animals")
    texts = read_texts(folder)
    assert texts.lines == ("The cat sat.", "A cat", "The dog sat down, too! It was a dog.")
    assert (texts.labels, texts.class_names, texts.name) == ((0, 0, 1), ("cats", "dogs"), "animals")
    assert read_texts(folder, sentences=True).lines[2:] == ("The dog sat down, too!", "It was a dog.")
    assert load(folder).class_names == ("cats", "dogs")
    assert load(folder / "cats.txt").num_classes == 1
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "none.txt").write_text("= only a heading =\n")
    for name, problem in (("bytes.txt", "UTF-8"), ("none.txt", "a text in a line"), ("gone.txt", "nothing there")):
        with pytest.raises(BadInput, match=problem):
            read_texts(tmp_path / name)


def test_length_marks_and_short_texts(tmp_path: Path) -> None:
    texts = read_texts(written(tmp_path / "animals"))
    data = text_dataset(texts, length=5, marks=True, shortest=5)
    tokenizer = WordTokenizer.trained(texts.lines)
    assert data.inputs[:, 0].tolist() == data.inputs[:, -1].add(-1).tolist() == [tokenizer.begin] * 2
    assert data.targets.tolist() == [0, 1]
    padded = text_dataset(texts, length=7)
    assert padded.inputs[1].tolist() == [*tokenizer.ids("A cat"), 0, 0, 0, 0, 0]
    for length, shortest, problem in ((0, 1, "length"), (5, 9, "at most the length 5"), (None, 99, "got none")):
        with pytest.raises(BadInput, match=problem):
            text_dataset(texts, length=length, shortest=shortest)


def test_targets_of_language_models() -> None:
    data = load("messages")
    causal = with_objective(data, "causal")
    assert (causal.classified, causal.num_classes) == ("token", 1210)
    kept = causal.targets[:, :-1] != IGNORED
    assert torch.equal(causal.targets[:, :-1][kept], data.inputs[:, 1:][kept])
    assert torch.equal(kept.sum(dim=1), (data.inputs != 0).sum(dim=1) - 1)
    masked, again, other = (with_objective(data, "masked", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(masked.inputs, again.inputs)
    assert not torch.equal(masked.inputs, other.inputs)
    hidden = masked.targets != IGNORED
    assert torch.equal(masked.targets[hidden], data.inputs[hidden])
    assert bool((masked.inputs[hidden] == 2).all())
    assert bool(hidden.any(dim=1).all())
    assert torch.equal(masked.inputs[~hidden], data.inputs[~hidden])
    assert masked.subset(torch.tensor([3])).objective == "masked"
    with pytest.raises(BadInput, match="distinct_labels"):
        causal.indices(1, 0, distinct_labels=True)
    with pytest.raises(BadInput, match="targets for every token already"):
        with_objective(causal, "masked")
    with pytest.raises(BadInput, match="got no texts"):
        with_objective(load("digits"), "causal")


def test_a_data_set_of_texts_checks_its_ids() -> None:
    space = TokenSpace(4, 3, padding=0)
    good = torch.tensor([[1, 2, 0], [3, 1, 2]])
    assert Dataset("texts", good, torch.tensor([0, 0]), ("a",), space).num_classes == 1
    for inputs in (good + 9, good.float(), good.flip(1)):
        with pytest.raises(BadInput, match="data 'texts': inputs"):
            Dataset("texts", inputs, torch.tensor([0, 0]), ("a",), space)
    with pytest.raises(BadInput, match="targets: expected int64"):
        Dataset("texts", good, torch.tensor([0, 0]), ("a",), space, "causal")
    with pytest.raises(BadInput, match="expected images to resize"):
        Dataset("texts", good, torch.tensor([0, 0]), ("a",), space).resized(3)


def test_a_digest_tells_tokenizers_apart() -> None:
    spaces = [text_dataset(messages(), vocabulary=count).tokens for count in (100, 100, 101)]
    digests = [vocabulary_digest(space) for space in spaces if space is not None]
    assert digests[0] == digests[1] != digests[2]
