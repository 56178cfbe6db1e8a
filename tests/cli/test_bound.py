"""`gradleak bound`, and the bounds that `gradleak audit` prints."""

import html
import json
import re
from pathlib import Path

import pytest
from PIL import Image

import gradleak as gl
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet
from tests.cli.running import run

WORDS = ("bound", "--model", "lenet-dlg", "--model-seed", 3, "--data", "digits", "--examples", 2, "--seed", 1)
NOISE = ("--defense", "GaussianNoise std=1e-3")


def test_the_verdict_comes_first_and_the_figures_are_those_of_the_call(tmp_path: Path) -> None:
    done = run(*WORDS, *NOISE, "--json", "--out", tmp_path)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    data = load("digits")
    positions = data.indices(2, 1).tolist()
    assert [one["examples"] for one in found["bounds"]] == [[position] for position in positions]
    task = gl.Task(lenet(10, 1, input_size=8, seed=3), gl.ImageSpace((1, 8, 8)), 10)
    own = gl.leakage_bound(
        task,
        data.inputs[positions[:1]],
        data.targets[positions[:1]],
        defenses=[gl.defenses.GaussianNoise(1e-3)],
        seed=1,
    )
    assert found["bounds"][0]["psnr_ceiling"] == pytest.approx(own.psnr_ceiling)
    assert found["verdict"][0].startswith("No unbiased attacker exceeds ")
    page = (tmp_path / "bound.html").read_text(encoding="utf-8")
    assert found["verdict"][0] in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count("data:image/png") == 4
    assert (tmp_path / "pictures" / "1-spectrum.svg").read_text(encoding="utf-8").startswith("<svg")
    with Image.open(tmp_path / "pictures" / "0-0-std.png") as picture:
        assert picture.size == (160, 160)
    strict = json.loads((tmp_path / "bound.json").read_bytes())
    assert strict["bounds"][0]["psnr_ceiling"] == pytest.approx(own.psnr_ceiling)


def test_the_prior_of_photographs_is_asked_for_by_name() -> None:
    done = run(*WORDS, *NOISE, "--prior", "photographs", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert {one["prior"] for one in found["bounds"]} == {"photographs, edges known"}
    assert 'the prior "photographs, edges known", no attacker at all' in found["verdict"][1]
    refused = run("bound", "--model", "lenet-dlg", "--data", "digits", "--batch-size", 65, "--prior", "photographs")
    assert refused.code == 2
    assert "expected at most 4096 values" in refused.err


def test_it_can_be_read_in_sixty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradleak.cli.console.console.width", 60)
    done = run(*WORDS, "--defense", "TopK keep=0.01", "--batch-size", 2)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("No unbiased attacker recovers the whole input")
    assert max(map(len, lines)) <= 60
    assert any("free" in line and "128" in line for line in lines)


def test_a_model_too_large_says_what_is_done_instead_and_what_it_costs() -> None:
    done = run(*WORDS, *NOISE, "--max-seconds", 1e-9)
    assert done.code == 0, done.err
    assert "64 unknowns would take about" in done.err
    assert "its leading part is taken" in done.err
    assert "the true ceiling lies lower" in " ".join(done.out.split())


def test_every_mistake_is_told_at_once() -> None:
    done = run(
        *("bound", "--data", "nowhere", "--examples", 0, "--prior", "sharp", "--mean", "a", "--max-seconds", 0),
        *("--defense", "GaussianNoise sdt=1", "--client", "Foo"),
    )
    assert done.code == 2
    starts = ("--examples", "--prior", "--max-seconds", "--mean", "--defense", "--client", "--model", "--data")
    assert [problem.removeprefix("error: ").split(" ")[0].rstrip(":") for problem in done.problems] == list(starts)
    other = run("bound", "--model", "lenet-dlg", "--data", "digits", "--input-shape", "3,8,8")
    assert other.code == 2
    assert "expected inputs of shape [3, 8, 8], got [1, 8, 8]" in other.problems[0]
    many = run("bound", "--model", "lenet-dlg", "--data", "digits", "--batch-size", 1000)
    assert many.code == 2
    assert "expected at most 1 batches of 1000" in many.problems[0]


def test_an_audit_prints_its_bounds_and_the_plan_says_how_many(tmp_path: Path) -> None:
    spec = tmp_path / "small.yaml"
    spec.write_text(
        "trials: 2\nmodel: {name: mlp, settings: {hidden: [16]}}\ndata: digits\n"
        "defense: {name: GaussianNoise, std: 1e-3}\nattack: linear_layer\nbound: {batches: 1}\n"
        "run: {backend: inprocess}\n",
        encoding="utf-8",
    )
    plan = run("audit", spec, "--dry-run")
    assert "Bounds: 1 settings x 1 captured batches = 1, about" in plan.out
    assert json.loads(run("audit", spec, "--dry-run", "--json").out)["bounds"] == 1
    done = run("audit", spec, "--out", tmp_path / "out")
    assert "| GaussianNoise(std=0.001): no unbiased attacker can exceed" in done.out
    again = json.loads(run("audit", spec, "--out", tmp_path / "out", "--json").out)
    assert html.escape(again["bounds"][0]["words"]).replace("&quot;", "&#34;") in (
        tmp_path / "out" / "report.html"
    ).read_text(encoding="utf-8")
    assert "1 of them there already" in run("audit", spec, "--out", tmp_path / "out", "--dry-run").out
