"""Benchmarks and examples start, finish and print what they promise, on the smallest setting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_dlg_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    out = run("benchmarks/dlg.py", "--images", 2, "--outer-steps", 2, "--released", "--json", file)
    assert "withheld: labels" in out
    rows = json.loads(file.read_text())
    assert [row["evaluations"] for row in rows] == [row["same_trace"] for row in rows]


@pytest.mark.slow
def test_separation_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    nets = ("--train", "photographs", "--steps", 2, "--nets", "default", "trained")
    out = run("benchmarks/separation.py", *nets, "--batch-sizes", 3, "--trials", 1, "--json", file)
    assert "labels at once" in out
    rows = json.loads(file.read_text())
    assert [(row["net"], row["float64"]) for row in rows] == [
        (net, float64) for net in ("default", "trained") for float64 in (False, True)
    ]
    assert all(row["labels_right"] and row["certified"] and row["exact"] == 3 for row in rows)


@pytest.mark.slow
def test_fedavg_benchmark(tmp_path: Path) -> None:
    file, weights = tmp_path / "rows.json", tmp_path / "weights.safetensors"
    small = ("--width", 4, "--hidden", 32, "--train-epochs", 1, "--images", 3, "--trials", 1, "--seed", 1000)
    attacks = ("--attacks", "local_training", "sme", "--seconds", 0.5)
    out = run("benchmarks/fedavg.py", *small, *attacks, "--epochs", 1, 2, "--save-weights", weights, "--json", file)
    assert "withheld: labels" in out
    assert "local steps" in out
    report = json.loads(file.read_text())
    names = ["grey", "mean image", "local_training", "sme"]
    assert [(row["epochs"], row["attack"]) for row in report["rows"]] == [(e, name) for e in (1, 2) for name in names]
    assert all(len(row["psnr"]) == 3 for row in report["rows"])
    assert [cost["steps"] for cost in report["costs"]] == [2, 4]
    again = run("benchmarks/fedavg.py", *small, "--weights", weights, "--attacks", "sme", "--seconds", 0.2)
    assert again.splitlines()[0] == out.splitlines()[0]  # the same accuracy


@pytest.mark.slow
def test_resnet20_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    out = run("benchmarks/resnet20.py", "--images", 2, "--pool", 3, "--seconds", 1, "--json", file)
    assert "withheld: labels" in out
    rows = json.loads(file.read_text())
    assert {"grey", "mean color", "inverting_gradients 0.1", "relu_inversion", "auto"} <= {
        row["attack"] for row in rows
    }
    assert rows[0]["gradient_norm"] < rows[-1]["gradient_norm"]


def test_every_example_is_short() -> None:
    for example in (ROOT / "examples").glob("*.py"):
        assert len(example.read_text().splitlines()) < 40, example.name


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_runs(example: Path) -> None:
    assert "threat model" in run(example)


@pytest.mark.slow
def test_runner_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    out = run("benchmarks/runner.py", "--trials", 4, "--long", 0, "--json", file)
    assert "runner and store alone, in one process:" in out
    assert json.loads(file.read_text())["inprocess"]["trials"] == 3
