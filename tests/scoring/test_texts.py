"""Scores of texts: by position, as a set, by common words, whole; paired one-to-one."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.protocol import not_applicable
from gradleak.scoring import score_inputs
from gradleak.scoring.texts import TextScores, readable
from gradleak.tokens import NO_TOKEN
from tests.problems import texts

pytest.importorskip("rouge_score")

WORDS = ("<pad>", "<end>", "the", "cat", "sat", "on", "a", "mat", "dog", "ran")
SPACE = gl.TokenSpace(len(WORDS), 6, padding=0, special=(1,))


def ids(*lines: str) -> Tensor:
    rows = [[WORDS.index(word) for word in line.split()] for line in lines]
    return torch.tensor([row + [0] * (6 - len(row)) for row in rows])


def spelled(tokens: Sequence[int]) -> str:
    return " ".join(WORDS[token] for token in tokens)


def scored(found: Tensor, true: Tensor, space: gl.TokenSpace = SPACE) -> tuple[gl.Scores, TextScores]:
    scores = score_inputs(found, gl.Truth(true, torch.zeros(len(true), dtype=torch.long), space))
    assert scores.text is not None
    return scores, scores.text


def test_a_shuffled_perfect_batch_is_exact_and_put_in_order() -> None:
    true = ids("the cat sat", "a dog ran", "the dog sat on a mat", "a cat ran")
    # A cycle of three, since a swap would hide an inverted assignment.
    scores, text = scored(true[[1, 2, 0, 3]], true)
    assert scores.paired_with.tolist() == [2, 0, 1, 3]
    assert all(bool((getattr(text, name) == 1).all()) for name in ("token_accuracy", "token_recall", "rougeL", "exact"))


def test_one_wrong_token_by_hand() -> None:
    _, text = scored(ids("the dog sat on a mat"), ids("the cat sat on a mat"))
    assert math.isclose(float(text.token_accuracy), 5 / 6)
    assert math.isclose(float(text.token_recall), 5 / 6)
    assert math.isclose(float(text.rouge1), 5 / 6)
    assert math.isclose(float(text.rouge2), 3 / 5)
    assert math.isclose(float(text.rougeL), 5 / 6)
    assert float(text.exact) == 0


def test_all_tokens_in_another_order_are_a_bag_and_no_text() -> None:
    _, text = scored(ids("mat a on sat cat the"), ids("the cat sat on a mat"))
    assert float(text.token_accuracy) == 0
    assert float(text.token_recall) == float(text.rouge1) == 1
    assert float(text.rouge2) == 0
    assert math.isclose(float(text.rougeL), 1 / 6)


def test_words_past_the_end_count_and_padding_does_not() -> None:
    _, text = scored(ids("the cat sat on", "a dog ran"), ids("the cat sat", "a dog ran"))
    assert text.token_accuracy.tolist() == [1, 1]
    assert text.exact.tolist() == [0, 1]
    assert math.isclose(float(text.rouge1[0]), 6 / 7)


def test_words_are_those_of_the_readable_text() -> None:
    space = gl.TokenSpace(len(WORDS), 6, padding=0, special=(1,), to_text=spelled)
    assert readable(ids("the cat sat <end>")[0], space) == "the cat sat"
    _, text = scored(ids("the dog sat <end>"), ids("the cat sat <end>"), space)
    assert math.isclose(float(text.rouge1), 2 / 3)
    assert math.isclose(float(text.token_accuracy), 3 / 4)


def test_words_are_those_of_the_library_in_every_alphabet() -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    from gradleak.scoring.texts import _Words  # pyright: ignore[reportPrivateUsage]

    line = "Don't send the 2nd draft_copy, it's half-done!"
    assert _Words().tokenize(line) == DefaultTokenizer(use_stemmer=False).tokenize(line)
    assert _Words().tokenize("Über Ägypten, привет") == ["über", "ägypten", "привет"]


def test_a_text_of_one_word_has_no_pairs_and_can_be_exact() -> None:
    _, text = scored(ids("cat"), ids("cat"))
    assert float(text.rouge2) == float(text.exact) == 1


def test_what_was_not_returned_is_not_scored() -> None:
    true = ids("the cat sat", "a dog ran")
    scores, text = scored(torch.stack([torch.full((6,), NO_TOKEN), true[1]]), true)
    assert text.token_accuracy[0].isnan()
    assert text.exact[1] == 1
    assert scores.unscored == 1
    scores, _ = scored(true[1:], true)
    assert scores.paired_with.tolist() == [-1, 0]
    assert scores.unscored == 1


def test_labels_of_paired_texts() -> None:
    task, inputs, targets = texts()
    observation, truth = gl.capture(task, inputs, targets)
    nothing = not_applicable("none", observation, "no")
    assert gl.score(nothing, truth).unscored == len(inputs)
    assert set(gl.score(nothing, truth).to_dict()) >= {"token_accuracy", "rouge1", "rouge2", "rougeL", "exact"}


def test_texts_of_another_length_are_refused() -> None:
    with pytest.raises(gl.BadInput, match="pad them alike"):
        scored(ids("the cat")[:, :4], ids("the cat"))
