"""`gradleak demo --text`, with a fraction of its steps."""

import json
from pathlib import Path

import pytest

from gradleak.audits.store import Store
from gradleak.audits.text_demonstration import TextDemonstration
from gradleak.audits.texts import Run
from gradleak.cli import demo_text
from gradleak.cli.demo import run_demo
from gradleak.cli.demo_text import marked, show_texts

pytest.importorskip("rouge_score")

TINY = TextDemonstration(
    batches=1, batch_size=2, messages=1, decoder_width=48, encoder_width=16, outer_steps=1, evaluations=10
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("demo")
    run_demo(TINY, where, processes=1, as_json=True)
    return where


@pytest.mark.parametrize("columns", [60, 100])
def test_the_demo_shows_messages_beside_what_came_back(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(demo_text.console, "width", columns)
    store = Store.open(folder)
    records = store.records()
    show_texts(store.contents(), store, Path("report.html"))
    out = capsys.readouterr().out
    assert [record.attack for record in records] == ["dager", "dlg_text", "tag", "lamp", "dager"]
    assert not [record.message for record in records if record.status == "error"]
    # Fewer tokens in the batch than the decoder is wide: every message of it comes back whole.
    assert records[0].scores["exact"] == (1.0, 1.0)
    assert "3 of 3 private messages were recovered word for word" in out
    for words in ("private message", "recovered", "(frequent tokens)", "(another message)", "decoder, N = 2", "2/2"):
        assert words in out
    assert all(len(line) <= columns for line in out.splitlines())
    assert len(list((folder / "texts").iterdir())) == 5
    assert "word for word" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_finished_demo_says_the_same_without_running_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "trials.jsonl").read_bytes()
    run_demo(TINY, folder, processes=1, as_json=True)
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert (printed["texts"], printed["word_for_word"], printed["worst_token_accuracy"]) == (3, 3, 1.0)
    assert "above_20_db" not in printed
    assert "already holds this demo" in captured.err
    assert (folder / "trials.jsonl").read_bytes() == lines


def test_messages_are_drawn_by_the_seed_and_are_in_no_reference() -> None:
    one, other = (TextDemonstration(seed=seed).trials() for seed in (3, 4))
    assert [trial.examples for trial in one] != [trial.examples for trial in other]
    assert len({trial.id for trial in one}) == len(one) == 15
    for trial in one:
        for text in trial.inputs:
            assert not (trial.reference == text).all(dim=1).any()
    batches = [tuple(trial.examples) for trial in one]
    assert len({example for batch in set(batches) for example in batch}) == sum(map(len, set(batches)))


def test_differences_are_seen_without_color() -> None:
    runs = (Run("equal", "the"), Run("wrong", " dog"), Run("missing", ""), Run("equal", " ran"))
    assert marked(runs).plain == "the [dog] _  ran"
    assert marked((Run("missing", ""),)).plain == "_ "
