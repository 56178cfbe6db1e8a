"""Texts as readers see them: pieces, escapes, differences, and the file that holds them."""

import json
from collections.abc import Callable, Sequence

import pytest
import torch

import gradleak as gl
from gradleak.audits.texts import Text, TrialTexts, compared, from_bytes, moments, texts_of, to_bytes, visible
from gradleak.errors import BadInput

WORDS = ["[PAD]", "[CLS]", "the", "cat", "sat", "ran", "\x1b[31m", "\u202eevil", "<b>", "\ud800"]


def decoded(ids: Sequence[int]) -> str:
    return " ".join(WORDS[token] for token in ids)


def space(to_text: Callable[[Sequence[int]], str] | None = decoded) -> gl.TokenSpace:
    return gl.TokenSpace(len(WORDS), 5, padding=0, special=(1,), to_text=to_text)


def text(*tokens: int, of: gl.TokenSpace | None = None) -> Text:
    row = torch.tensor([[*tokens, *[0] * (5 - len(tokens))]])
    return texts_of(row, of or space())[0]


def test_padding_and_special_tokens_are_not_shown_but_kept_as_ids() -> None:
    found = text(1, 2, 3)
    assert found.ids == (1, 2, 3)
    assert found.readable == "the cat"


def test_what_would_act_on_a_terminal_or_a_browser_is_spelled_out() -> None:
    shown = text(6, 7, 9).readable
    assert shown == r"\x1b[31m \u202eevil \ud800"
    assert shown.isprintable()
    assert visible("na\u00efve \U0001f642 \u4f60\u597d a\u200db") == "na\u00efve \U0001f642 \u4f60\u597d a\u200db"
    assert visible("a\nb\u2028") == r"a\nb\u2028"


def broken(ids: Sequence[int]) -> str:
    raise ZeroDivisionError


@pytest.mark.parametrize(("to_text", "shown"), [(None, "2 3"), (broken, "<2> <3>")])
def test_without_words_the_ids_are_shown(to_text: Callable[[Sequence[int]], str] | None, shown: str) -> None:
    assert text(2, 3, of=space(to_text)).readable == shown


def test_a_tokenizer_that_takes_back_what_it_said_loses_no_token() -> None:
    def halves(ids: Sequence[int]) -> str:
        return "".join("\ufffd" if token == 2 else "x" for token in ids).replace("\ufffd\ufffd", "\u00e9")

    found = text(2, 2, 3, of=space(halves))
    assert len(found.pieces) == 3
    assert all(found.pieces)


def test_differences_are_aligned_token_by_token() -> None:
    left, right = compared(text(2, 3, 4, 5), text(2, 8, 5))
    assert [(run.kind, run.text) for run in left] == [("equal", "the"), ("lost", " cat sat"), ("equal", " ran")]
    assert [(run.kind, run.text) for run in right] == [
        ("equal", "the"),
        ("wrong", " <b>"),
        ("missing", ""),
        ("equal", " ran"),
    ]
    assert right[1].space == " "
    assert right[1].words == "<b>"


def test_equal_texts_have_no_difference_and_nothing_is_all_missing() -> None:
    same, nothing = text(2, 3), Text((-1, -1), ("", ""))
    assert {run.kind for runs in compared(same, same) for run in runs} == {"equal"}
    assert [run.kind for run in compared(same, nothing)[1]] == ["missing"]


def test_the_file_is_ascii_and_reads_back_exactly() -> None:
    texts = TrialTexts((text(6, 7, 9),), (text(2, 8),), ((text(3),), (text(4),)), (10, 20))
    content = to_bytes("0" * 16, texts)
    assert content.isascii()
    assert from_bytes(content, "here") == texts
    assert json.loads(content)["lines"] == [{"true": r"\x1b[31m \u202eevil \ud800", "recovered": "the <b>"}]
    content.decode().encode("utf-8")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"texts": 3}', b'{"texts": {"truth": [1]}}'])
def test_a_damaged_file_is_refused(content: bytes) -> None:
    with pytest.raises(BadInput, match="here: expected the texts of a trial"):
        from_bytes(content, "here")


def test_moments_go_from_the_first_to_the_last() -> None:
    assert moments(0) == []
    assert moments(1) == [0]
    assert moments(100)[0] == 0
    assert moments(100)[-1] == 99
    assert len(moments(100)) == 8
