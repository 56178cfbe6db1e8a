"""Trials on texts by the same runner, store, statistics, limits and report as images."""

import json
import math
import re
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks import Attack, Progress
from gradleak.attacks.protocol import not_applicable
from gradleak.audits.backends.spool import Spooled, read_spooled
from gradleak.audits.executing import Results, execute
from gradleak.audits.export import rows_of
from gradleak.audits.limits import check_limits
from gradleak.audits.merits import PSNR, TOKEN_ACCURACY
from gradleak.audits.records import TrialRecord
from gradleak.audits.report import write_report
from gradleak.audits.report.words import verdict
from gradleak.audits.spec import Limit
from gradleak.audits.store import PackedTrial, Store
from gradleak.audits.summarizing import summarize
from gradleak.audits.texts import TrialTexts
from gradleak.audits.trial import Trial, run_trial
from gradleak.errors import BadInput
from gradleak.reconstructions import History, Snapshot

pytest.importorskip("rouge_score")

WORDS = ["[PAD]", "the", "cat", "sat", "on", "a", "red", "mat", "<script>alert(1)</script>", "\x1b[2J", "dog", "ran"]
SPACE = gl.TokenSpace(len(WORDS), 6, padding=0, to_text=lambda ids: " ".join(WORDS[token] for token in ids))
PRIVATE = torch.tensor([[1, 2, 3, 4, 8, 9], [5, 6, 7, 3, 0, 0]])
PUBLIC = torch.tensor([[1, 10, 11, 0, 0, 0], [5, 10, 3, 4, 1, 7], [1, 10, 3, 0, 0, 0]])
TASK = gl.Task(nn.Sequential(nn.Embedding(len(WORDS), 4), nn.Flatten(), nn.Linear(24, 2)), SPACE, 2)


@dataclass(frozen=True)
class Answers:
    """An attack that answers with its texts, whatever it sees."""

    tokens: torch.Tensor
    name: str = "answers"

    def __call__(
        self, observation: gl.Observation, *, seed: int = 0, progress: Progress | None = None
    ) -> gl.Reconstruction:
        nothing = not_applicable(self.name, observation, "")
        half = self.tokens.masked_fill(torch.arange(6) > 2, -1)
        history = History((1, 9), (0.0, 1.0), (1.0, 0.1), (Snapshot(1, half), Snapshot(9, self.tokens)))
        return replace(nothing, inputs=self.tokens, targets=torch.zeros(2).long(), status="converged", history=history)


@dataclass(frozen=True)
class Crashes:
    """An attack with a fault."""

    name: str = "crashes"

    def __call__(
        self, observation: gl.Observation, *, seed: int = 0, progress: Progress | None = None
    ) -> gl.Reconstruction:
        raise ZeroDivisionError("no luck")


def trial(attack: Attack, *, seed: int = 0, name: str = "") -> Trial:
    return Trial(
        task=TASK,
        model={"name": "linear"},
        data={"name": "sentences"},
        examples=[4, 5],
        inputs=PRIVATE,
        targets=torch.tensor([0, 1]),
        reference=PUBLIC,
        attack=attack,
        attack_settings={"name": name or attack.name},
        seed=seed,
    )


def found(attack: Attack, *, seed: int = 0) -> TrialRecord:
    return run_trial(trial(attack, seed=seed))[0]


def test_a_trial_has_the_scores_of_texts_in_true_order_and_their_words() -> None:
    swapped = PRIVATE[[1, 0]].clone()
    swapped[1, 0] = 10
    record, texts = run_trial(trial(Answers(swapped)))
    assert record.merit == TOKEN_ACCURACY
    assert record.leakage == pytest.approx((5 / 6, 1.0))
    assert record.scores["exact"] == (0.0, 1.0)
    assert all(math.isnan(value) for value in record.numbers("psnr"))
    assert list(record.baselines) == ["frequent_tokens", "random_tokens", "random_other"]
    torch.testing.assert_close(torch.tensor(record.course.token_accuracy), torch.tensor([[2 / 6, 3 / 4], [5 / 6, 1.0]]))
    assert isinstance(texts, TrialTexts)
    assert texts.truth[0].readable == r"the cat sat on <script>alert(1)</script> \x1b[2J"
    assert texts.recovered[1].readable == "a red mat sat"
    assert texts.evaluations == (1, 9)


def test_the_store_keeps_texts_beside_the_line_and_refuses_a_damaged_file(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    record, texts = run_trial(trial(Answers(PRIVATE)))
    store.append(record, texts)
    assert store.texts(record) == texts
    assert store.images(record) is None
    assert store.picture(record) is None
    assert store.statuses() == {record.id: "converged"}
    assert Store.open(tmp_path).records() == (record,)
    (row, _) = rows_of(record)
    assert row["scores.exact"] == 1.0
    (tmp_path / "texts" / f"{record.id}.json").write_bytes(b"{")
    with pytest.raises(BadInput, match="expected the texts of a trial"):
        store.texts(record)


def test_texts_of_one_batch_recovered_word_for_word_are_the_headline() -> None:
    wrong = PRIVATE.clone()
    wrong[0, 2:] = 11
    summary = summarize([found(Answers(wrong)), found(Answers(PRIVATE), seed=1)])
    assert (summary.level, summary.exact, len(summary.own)) == ("leak", 2, 2)
    one = summarize([found(Answers(wrong))])
    said = verdict(one)
    assert said.headline == "1 of 2 private texts was recovered word for word."
    assert any("One leaked text is a leak" in finding for finding in said.findings)
    assert not any("image" in finding or " dB" in finding for finding in (said.headline, *said.findings))
    (group,) = one.groups
    assert (group.exact, group.leakage.worst, group.leakage.median) == (1, 1.0, pytest.approx(2 / 3))
    assert [leak.threshold for leak in group.leaks] == [0.5, 0.9]
    assert [leak.images for leak in group.leaks] == [1, 1]
    assert math.isnan(group.psnr.median)


def test_words_without_their_order_are_no_clean_bill() -> None:
    moved = torch.tensor([[9, 8, 4, 1, 2, 3], [3, 7, 5, 6, 0, 0]])
    summary = summarize([found(Answers(moved))])
    assert summary.best.worst == 0.0
    assert summary.level == "partial"
    assert verdict(summary).headline == "The words of 2 of 2 private texts were recovered, in no order."


def test_what_chance_has_in_place_too_is_no_leak() -> None:
    record = found(Answers(PRIVATE))
    lucky = {**record.baselines, "random_other": record.scores}
    assert summarize([record.model_copy(update={"baselines": lucky})]).above(0.5) == 0


def test_an_attack_that_crashes_on_texts_is_an_error_with_texts_to_show(tmp_path: Path) -> None:
    record, texts = run_trial(trial(Crashes()))
    assert (record.status, record.merit) == ("error", TOKEN_ACCURACY)
    store = Store.open(tmp_path)
    store.append(record, texts)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "nothing recovered" in page
    assert "No verdict" in page


def test_a_trial_that_cannot_be_built_has_the_columns_of_its_kind() -> None:
    def fails(spec: object) -> Trial:
        raise ZeroDivisionError

    texts, _ = execute({"space": {"name": "TokenSpace"}, "examples": [1]}, "0" * 16, 1, None, fails)
    images, _ = execute({"space": {"name": "ImageSpace"}, "examples": [1]}, "0" * 16, 1, None, fails)
    assert (texts.merit, images.merit) == (TOKEN_ACCURACY, PSNR)
    assert "token_accuracy" in texts.scores
    assert not {"text", "token_accuracy", "exact"} & set(images.scores)


@pytest.mark.parametrize(
    ("limit", "state", "words"),
    [
        (Limit(success_rate_at=0.9, below=1.0), "exceeded", "1 of 1 captured batches at token accuracy 0.9 or more"),
        (Limit(success_rate_at=1.0, below=0.9, score="exact"), "exceeded", "at word for word 1 or more"),
        (Limit(success_rate_at=0.5, below=0.9, score="rougeL"), "exceeded", "at ROUGE-L 0.5 or more"),
        # What texts cannot reach would always be kept, which says nothing.
        (Limit(success_rate_at=20.0, below=0.9), "missing", "no value of token accuracy reaches 20"),
        (Limit(success_rate_at=20.0, below=0.9, score="psnr"), "missing", "a text has no score psnr"),
    ],
)
def test_limits_name_the_score_of_texts(limit: Limit, state: str, words: str) -> None:
    (checked,) = check_limits([found(Answers(PRIVATE))], [limit])
    assert checked.state == state
    assert words in checked.describe()


def test_the_page_shows_both_texts_escaped_with_their_differences_and_no_word_of_images(tmp_path: Path) -> None:
    wrong = PRIVATE.clone()
    wrong[1, 1] = 10
    wrong[0, 5] = -1
    store = Store.open(tmp_path)
    store.write("spec.yaml", b"name: letters\nlimit: {success_rate_at: 0.5, below: 0.1}\nbound: {batches: 1}\n")
    for attack, name in ((Answers(wrong), "one"), (Answers(PRIVATE), "two")):
        store.append(*run_trial(trial(attack, name=name)))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<u>red</u>" in page
    assert "<del>dog</del>" in page
    assert '<span class="gap"><i>missing</i></span>' in page
    text = re.sub(r"<(style|metadata)>.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    shown = text.split("To repeat this")[0] + text.split("How to read this")[1]
    assert re.findall(r"(?s).{0,40}\b(?:images?|pixels?|dB|PSNR|SSIM|checkerboard)\b", shown) == []
    for words in (
        "word for word",
        "Token accuracy",
        "another text",
        "most frequent tokens",
        "tokens have no derivative",
    ):
        assert words in shown
    figures = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (figures["private_texts"], figures["word_for_word"], figures["thresholds"]) == (2, 2, [0.5, 0.9])
    assert figures["worst"]["score"] == "token_accuracy"


def test_texts_and_images_of_workers_come_through_their_file(tmp_path: Path) -> None:
    trials = (
        PackedTrial("a", b"1\n", None, b"text"),
        PackedTrial("b", b"2\n", b"image"),
        PackedTrial("c", b"3\n", None),
    )
    call: Any = lambda: Results(trials, 2.5)  # noqa: E731
    future: Future[str] = Future()
    arrived = read_spooled(future)
    future.set_result(Spooled(call, str(tmp_path))())
    assert arrived.result().trials == trials
