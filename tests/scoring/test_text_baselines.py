"""Answers about texts that never saw the update."""

import pytest
import torch

import gradleak as gl
from gradleak.scoring import baseline_scores
from gradleak.scoring.text_baselines import frequent_tokens, random_tokens

# Ids: 0 padding, 1 begin, 2 end, then words; word 3 is the most frequent of the reference, 4 the next.
SPACE = gl.TokenSpace(9, 6, padding=0, special=(1, 2))
REFERENCE = torch.tensor([[1, 3, 4, 3, 2, 0], [1, 5, 3, 2, 0, 0], [1, 3, 4, 6, 3, 2]])


def truth() -> gl.Truth:
    inputs = torch.tensor([[1, 7, 8, 2, 0, 0], [1, 3, 4, 5, 2, 0]])
    return gl.Truth(inputs, torch.tensor([0, 1]), SPACE)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_frequent_tokens_are_those_of_the_reference_in_the_shape_of_its_texts() -> None:
    found = frequent_tokens(truth(), REFERENCE, SPACE, generator=generator())
    assert found.shape == (2, 6)
    for row in found.tolist():
        words = [token for token in row if token > 2]
        assert words == [3, 4, 5, 6][: len(words)]
        assert [token if token <= 2 else 9 for token in row] in [
            [token if token <= 2 else 9 for token in other] for other in REFERENCE.tolist()
        ]


def test_random_tokens_follow_the_frequencies_of_the_reference() -> None:
    many = gl.Truth(truth().inputs.repeat(500, 1), torch.zeros(1000, dtype=torch.long), SPACE)
    found = random_tokens(many, REFERENCE, SPACE, generator=generator())
    words = found[found > 2]
    shares = torch.bincount(words, minlength=9)[3:].double() / len(words)
    torch.testing.assert_close(shares, torch.tensor([5, 2, 1, 1, 0, 0]).double() / 9, atol=0.03, rtol=0)


def test_every_baseline_of_texts_is_scored_and_none_sees_the_private_words() -> None:
    pytest.importorskip("rouge_score")
    found = baseline_scores(truth(), REFERENCE, seed=3)
    assert list(found) == ["frequent_tokens", "random_tokens", "random_other"]
    for scores in found.values():
        assert scores.text is not None
        assert scores.psnr.isnan().all()
        assert (scores.text.exact == 0).all()
        # Words 7 and 8 are in no reference; begin and end are.
        assert float(scores.text.token_recall[0]) <= 0.5
    again = baseline_scores(truth(), REFERENCE, seed=3)
    assert all(found[name].to_dict()["rouge1"] == again[name].to_dict()["rouge1"] for name in found)


def test_a_reference_of_special_tokens_alone_gives_an_answer() -> None:
    reference = torch.tensor([[1, 2, 0, 0, 0, 0]])
    assert frequent_tokens(truth(), reference, SPACE, generator=generator()).shape == (2, 6)
    assert random_tokens(truth(), reference, SPACE, generator=generator()).shape == (2, 6)
