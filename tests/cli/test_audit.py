"""`gradleak audit`: dry run, overrides and mistakes; the run itself where the runner is."""

import json
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

import gradleak as gl
from gradleak.audits.reading import read_spec, shipped_specs
from gradleak.audits.run import AuditOutcome
from gradleak.cli.listing import KINDS
from tests.cli.running import run

SPEC = """\
# Does it run?
trials: 2
model: tests.audits.factories:net
data: tests.audits.factories:noise
attack: [linear_layer, {name: dlg, outer_steps: 2}]
run: {backend: inprocess}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return tmp_path / "spec.yaml"


def test_a_dry_run_prints_grid_size_and_time_and_writes_nothing(spec: Path) -> None:
    out = spec.parent / "out"
    done = run("audit", spec, "--dry-run", "--out", out, "--set", "batch_size=[1, 2]")
    assert done.code == 0
    assert "Does it run?" in done.out
    assert "attack (2)" in done.out
    assert "dlg(outer_steps=2)" in done.out
    assert "4 cells x 2 captured batches = 8 trials" in done.out
    assert "Time: about" in done.out
    assert "Estimated from" in done.out
    assert not out.exists()


def test_a_dry_run_as_json(spec: Path) -> None:
    done = run("audit", spec, "--dry-run", "--json", "--set", "attack.1.max_seconds=5", "--set", "trials=3")
    plan = json.loads(done.out)
    assert (plan["cells"], plan["batches_per_cell"], plan["trials"], plan["done"]) == (2, 3, 6, 0)
    assert plan["axes"]["attack"] == ["linear_layer", "dlg(outer_steps=2, max_seconds=5)"]
    assert plan["at_most_seconds"] is None  # linear_layer has no limit
    assert len(set(plan["ids"])) == 6


def test_mistakes_are_lines_with_exit_code_2(spec: Path) -> None:
    spec.write_text(SPEC.replace("trials", "trails").replace("outer_steps", "steps"), encoding="utf-8")
    done = run("audit", spec, "--dry-run", "--set", "seed=-1")
    assert done.code == 2
    assert done.out == ""
    assert [line.split(": ")[1] for line in done.problems] == [
        "--set seed",
        f"{spec}:2 trails",
        f"{spec}:5 attack.1.steps",
    ]


def test_a_run_needs_a_folder(spec: Path) -> None:
    done = run("audit", spec)
    assert done.code == 2
    assert done.problems == ["error: --out: expected a folder for the results, got none; add --out DIR"]


def test_model_and_data_are_short_for_overrides(tmp_path: Path) -> None:
    folder = tmp_path / "images: mine #1"
    folder.mkdir()
    for number in range(9):
        Image.new("RGB", (40, 36), (20 * number, 9, 0)).save(folder / f"{number}.png")
    done = run("audit", "quick", "--model", "tests.audits.cnn:make", "--data", folder, "--dry-run", "--json")
    assert done.code == 0, done.err
    axes = json.loads(done.out)["axes"]
    assert axes["model"] == ["tests.audits.cnn:make"]
    assert axes["data"] == [f"{folder}, 32x32 pixels"]


@pytest.mark.parametrize("name", shipped_specs())
def test_a_shipped_spec_plans(name: str) -> None:
    done = run("audit", name, "--dry-run", "--json", "--set", "trials=1")
    plan = json.loads(done.out)
    assert plan["comment"].endswith((".", "?"))
    assert plan["trials"] == plan["cells"] > 1
    assert read_spec(name).threshold == (20, 30)


def test_shipped_specs_are_listed() -> None:
    names = [str(entry["name"]) for entry in KINDS["specs"]()]
    assert {"quick", "dlg-images", "batch-size"} <= set(names)


def test_the_quick_check_is_over_in_three_minutes_on_two_cores() -> None:
    done = run("audit", "quick", "--dry-run", "--json", "--set", "run.workers=2")
    plan, price = json.loads(done.out), read_spec("quick").price
    assert price is not None
    assert price.max_seconds is not None
    # The trainings that tell the price come after the trials.
    assert plan["at_most_seconds"] + price.max_seconds <= 160


# ---- running -----------------------------------------------------------------------------------------------------

needs_runner = pytest.mark.skipif(find_spec("gradleak.audits.run") is None, reason="the runner is not merged yet")


@needs_runner
def test_an_audit_runs_and_resumes(spec: Path) -> None:
    out = spec.parent / "out"
    done = run("audit", spec, "--out", out, "--set", "trials=1", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["finished"] == 2
    assert read_spec(out / "spec.yaml", ["trials=2", "name=spec"]) == read_spec(spec)
    assert (out / "spec.yaml").read_text(encoding="utf-8").startswith("# Does it run?\n")
    again = run("audit", spec, "--dry-run", "--out", out, "--json")
    assert json.loads(again.out)["done"] == 2
    done = run("audit", spec, "--out", out)
    assert done.code == 0, done.err
    assert "4 of 4 trials" in done.out
    assert (out / "report.html").is_file()
    lines = (out / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 4


@needs_runner
def test_python_mirrors_the_command_line(spec: Path) -> None:
    outcome = gl.audit(spec, out=spec.parent / "out", overrides=["trials=1"])
    assert (outcome.planned, outcome.finished, outcome.missing) == (2, 2, 0)
    raw = {"trials": 1, "model": "tests.audits.factories:net", "data": "tests.audits.factories:noise"}
    outcome = gl.audit({**raw, "attack": "linear_layer", "run": {"backend": "inprocess"}}, out=spec.parent / "out")
    assert outcome.finished == 1
    assert len((spec.parent / "out" / "trials.jsonl").read_text(encoding="utf-8").splitlines()) == 2


@needs_runner
def test_failed_trials_are_exit_code_3(spec: Path) -> None:
    out = spec.parent / "out"
    done = run("audit", spec, "--out", out, "--set", "attack=tests.audits.factories:crashing")
    assert done.code == 3
    assert "2 failed" in done.err


LIMITED = ("--set", "attack=linear_layer", "--set", "trials=3")


def test_a_limit_that_leaked_batches_exceed_ends_with_1(spec: Path) -> None:
    junit = spec.parent / "junit.xml"
    limit = "limit={success_rate_at: 30, below: 0.5}"
    done = run("audit", spec, "--out", spec.parent / "out", *LIMITED, "--set", limit, "--junit", junit)
    assert done.code == 1
    assert "Limit exceeded" in done.out
    assert "3 of 3 captured batches at 30 dB or more" in done.out
    assert 'failures="1"' in junit.read_text(encoding="utf-8")
    assert "Declared limits" in (spec.parent / "out" / "report.html").read_text(encoding="utf-8")


def test_a_limit_that_is_kept_ends_with_0(spec: Path) -> None:
    weak = "attack={name: dlg, outer_steps: 1}"
    limit = "limit={success_rate_at: 100, below: 0.9}"
    done = run(
        "audit",
        spec,
        "--out",
        spec.parent / "out",
        "--set",
        weak,
        "--set",
        "threshold=[100]",
        "--set",
        "trials=3",
        "--set",
        limit,
    )
    assert done.code == 0
    assert "Limit kept" in done.out
    assert "0 of 3 captured batches" in done.out


def test_a_limit_that_too_few_batches_cannot_show_is_exceeded(spec: Path) -> None:
    weak = "attack={name: dlg, outer_steps: 1}"
    limit = "limit={success_rate_at: 100, below: 0.05}"
    done = run("audit", spec, "--out", spec.parent / "out", "--set", weak, "--set", "threshold=[100]", "--set", limit)
    assert done.code == 1
    assert "it takes 73 clean batches to show this limit" in done.out


def test_a_run_that_ended_before_the_first_trial_says_why_and_has_no_report(tmp_path: Path) -> None:
    stopped = AuditOutcome(planned=24, finished=0, errors=0, missing=24, stopped="interrupted. To go on, run it again")
    with mock.patch("gradleak.cli.audit.run_declared", return_value=stopped):
        done = run("audit", "quick", "--out", tmp_path / "out")
    assert done.code == 3
    assert "Stopped: interrupted. To go on, run it again" in done.err
    assert "No report: " in done.err
    assert "Report: " not in done.out
