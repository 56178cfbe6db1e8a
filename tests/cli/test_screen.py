"""`gradleak screen`: what it prints on narrow terminals, and what it writes."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.running import run

WORDS = ("--model", "lenet-dlg", "--data", "digits", "--steps", 3)


def test_both_ends_are_printed_on_60_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradleak.cli.console.console.width", 60)
    done = run("screen", *WORDS, "--examples", 12, "--noise", 0.01, "--show", 3)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("The riskiest example needs noise of std ")
    assert lines[1] == "digits, 12 of 1,797 examples, lenet-dlg"
    assert max(map(len, lines)) <= 60
    assert [line.strip() for line in lines if line.strip() in {"riskiest", "safest"}] == ["riskiest", "safest"]
    assert len(re.findall(r"^ +\d+  \d ", done.out, flags=re.MULTILINE)) == 6
    assert "is enough for" in done.out


def test_files_hold_all_scores_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    done = run("screen", *WORDS, "--examples", 30, "--noise", 0.01, "--out", tmp_path, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    table = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert [line["rank"] for line in lines] == list(range(1, 31))
    assert [int(row["position"]) for row in table] == [line["position"] for line in lines]
    assert lines[0]["score"] == said["riskiest"][0]["score"] == said["scores"]["most"]
    assert all(first["score"] >= second["score"] for first, second in zip(lines, lines[1:], strict=False))
    assert sorted(line["norm_rank"] for line in lines) == list(range(1, 31))
    page = (tmp_path / "screening.html").read_text()
    assert page.count("data:image/png") == 24
    assert "<svg" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    again = run("screen", *WORDS, "--examples", 30, "--noise", 0.01, "--json")
    assert json.loads(again.out)["riskiest"] == said["riskiest"]


def test_text_of_the_data_is_escaped(tmp_path: Path) -> None:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    file = tmp_path / "<b>data.safetensors"
    save_file({"inputs": images, "targets": torch.tensor([0, 1, 0, 1])}, file)
    done = run("screen", "--model", "lenet-dlg", "--data", file, "--steps", 1, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    page = (tmp_path / "out" / "screening.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;data" in page


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (("--examples", 0, "--steps", 0, "--probes", 1), ["--examples", "--steps", "--probes"]),
        (("--seed", -1, "--show", -1, "--noise", 0), ["--seed", "--show", "--noise"]),
        (("--examples", 5000), ["--examples"]),
        (("--data", "nowhere"), ["--data"]),
        (("--model", "nothing"), ["--model"]),
        (("--dropout", "random"), ["client.dropout"]),
    ],
)
def test_bad_words_are_told_all_at_once(words: tuple[object, ...], problems: list[str], tmp_path: Path) -> None:
    done = run("screen", *WORDS, "--out", tmp_path / "out", *words)
    assert done.code == 2
    assert [problem.removeprefix("error: ").split(":")[0] for problem in done.problems] == problems
    assert not (tmp_path / "out").exists()
