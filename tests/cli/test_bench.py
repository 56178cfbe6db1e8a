"""`gradleak bench`: the same captures for all, measured alike."""

import json

import pytest

from tests.cli.running import run

TINY = ("--trials", 2, "--outer-steps", 1, "--iterations", 3, "--max-seconds", 5)


@pytest.mark.slow
def test_contestants_meet_the_same_captures_in_turn() -> None:
    done = run("bench", "--attacks", "auto,released-dlg,released-ig", *TINY, "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert [(row["trial"], row["attack"]) for row in rows] == [
        (0, "auto"),
        (0, "released-dlg"),
        (0, "released-ig"),
        (1, "released-ig"),
        (1, "released-dlg"),
        (1, "auto"),
    ]
    assert all(row["psnr"][0] > 75 and row["labels_right"] == 1 for row in rows if row["attack"] == "auto")
    assert {row["evaluations"] for row in rows if row["attack"] == "released-ig"} == {3}


@pytest.mark.slow
def test_recipe_and_transcription_take_the_same_path() -> None:
    done = run("bench", "--attacks", "dlg,released-dlg", "--trials", 1, "--outer-steps", 3, "--json")
    ours, theirs = json.loads(done.out)["rows"]
    assert ours["evaluations"] == theirs["evaluations"] >= 3


def test_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradleak.cli.console.console.width", 80)
    done = run("bench", "--net", "mlp400", "--attacks", "auto,released-dlg", *TINY)
    assert "…" not in done.out
    assert "withheld: labels" in done.out


def test_unknown_names_are_told_together() -> None:
    done = run("bench", "--attacks", "magic,auto", "--net", "vgg")
    assert done.code == 2
    assert len(done.problems) == 2
