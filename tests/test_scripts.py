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
def test_text_inversion_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    # Any words will do: nothing but the course of the script is looked at.
    words = ["leaf", "stone", "river", "cloud", "quiet", "early", "brown", "meadow", "walks", "sings"]
    sentences = [" ".join(words[(start + step * (start % 3 + 1)) % 10] for step in range(18)) for start in range(30)]
    text, file = tmp_path / "text.txt", tmp_path / "rows.json"
    text.write_text(" . ".join(sentences) + "\n")
    small = ("--vocabulary", 200, "--trials", 1, "--outer-steps", 1, "--steps", 3, "--candidates", 2, "--proposals", 2)
    kinds = ("--kinds", "mlm", "embedding", "--inits", 0.05, "--batch-sizes", 2)
    out = run("benchmarks/text_inversion.py", "--texts", text, "--public", text, *kinds, *small, "--json", file)
    assert "no labels" in out
    rows = json.loads(file.read_text())
    assert [(row["kind"], row["attack"]) for row in rows] == [
        (kind, attack) for kind in ("mlm", "embedding") for attack in ("dlg_text", "tag", "lamp")
    ]
    assert all(row["status"] in {"budget", "converged"} and row["course"] for row in rows)


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


@pytest.mark.slow
def test_batch_norm_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    for size in (1, 2):
        out = run(
            *("benchmarks/batch_norm.py", "--depth", 8, "--batches", 1, "--batch-size", size),
            *("--seconds", 1, "--json", file),
        )
        assert "withheld: labels" in out
        rows = json.loads(file.read_text())
        assert {row["mode"] for row in rows} == {"evaluation", "training", "training, statistics sent", "any"}
        assert len(rows) == 5 * size
    assert "batch statistics: inferred from sent buffers, exact" in out


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


@pytest.mark.slow
def test_smooth_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    nets = ("--depth", 8, "--nets", "relu", "sigmoid")
    out = run("benchmarks/smooth.py", "--images", 1, "--seconds", 1, *nets, "--json", file)
    assert "withheld: labels" in out
    rows = json.loads(file.read_text())
    assert [(row["net"], row["attack"]) for row in rows] == [
        ("relu", "auto"),
        ("relu", "dlg"),
        ("-", "grey"),
        ("-", "mean color"),
        ("sigmoid", "auto"),
        ("sigmoid", "dlg"),
    ]


@pytest.mark.slow
def test_curves_benchmark(tmp_path: Path) -> None:
    arguments = [
        "benchmarks/curves.py",
        "--only",
        "layers",
        "--runs",
        tmp_path / "runs",
        "--results",
        tmp_path / "pages",
    ]
    arguments += ["--trials", 1, "--seconds", 1, "--workers", 1, "--data", "digits"]
    arguments += ["--set", "layers:data.size=16", "--set", "layers:seed=1000"]
    out = run(*arguments)
    assert "layers: 6 of 6 trials have a result" in out
    page = tmp_path / "pages" / "layers.md"
    text = page.read_text()
    assert text.startswith("# Which layers leak?\n")
    assert "auto: by layers that the attack sees, success at 20 dB is " in text
    assert "| first | " in text
    pictures = list((tmp_path / "pages").glob("*.svg"))
    assert "layers-1.svg" in text
    assert all(b"var(" not in picture.read_bytes() and picture.stat().st_size < 60_000 for picture in pictures)
    # The same command goes on where it stopped, and what people wrote stays.
    page.write_text(text.replace("<!-- findings -->", "<!-- findings -->\nThe first layer leaks."))
    assert "6 of 6 trials" in run(*arguments)
    assert "The first layer leaks." in page.read_text()


@pytest.mark.slow
def test_batch_defenses_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    for defense in ("mixup", "augment"):
        out = run(
            *("benchmarks/batch_defenses.py", "--defense", defense, "--batches", 1, "--batch-size", 2, "--seed", 1),
            *("--policy", "0-2", "--seconds", 0.3, "--attackers", "adaptive", "blind", "none", "--json", file),
        )
        assert "withheld: labels; blind: defense withheld" in out
        rows = json.loads(file.read_text())
        assert {row["attacker"] for row in rows} == {"adaptive", "blind", "none", "mixed", "grey"}
        assert all(len(row["psnr"]) == 2 for row in rows)


@pytest.mark.slow
def test_learned_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    small = ("--data", "photographs", "--size", 16, "--images", 3, "--searched", 1, "--seconds", 0.3, "--steps", 3)
    words = (*small, "--defenses", "pruned", "--epochs", 1, "--hidden", 8, "--out", tmp_path / "inverters")
    out = run("benchmarks/learned.py", *words, "--json", file)
    assert "mean image" in out
    rows = json.loads(file.read_text())
    found = [(row["attack"], row["threat"], len(row["ssim"])) for row in rows]
    assert found[:2] == [("mean image", "-", 3), ("learned", "adaptive", 3)]
    assert found[-2:] == [("auto", "blind", 1), ("auto", "adaptive", 1)]
    assert (tmp_path / "inverters" / "pruned" / "inverter.safetensors").exists()


@pytest.mark.slow
def test_defenses_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    some = ("--settings", "none", "sign")
    words = ("--images", 1, "--seed", 1000, "--seconds", 0.2, "--dlg-evaluations", 3, *some, "--rows", file)
    out = run("benchmarks/defenses.py", *words)
    assert "withheld: labels" in out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 2 * 3
    assert {row["attacker"] for row in rows} == {"dlg", "blind", "adaptive"}
    # A second call finds everything there, and the table is the same.
    assert run("benchmarks/defenses.py", *words) == run("benchmarks/defenses.py", "--rows", file, "--report")
    assert len(file.read_text().splitlines()) == len(rows)


@pytest.mark.slow
def test_price_benchmark_knows_every_defense_that_it_lists(tmp_path: Path) -> None:
    done = run("benchmarks/price.py", "--list")
    assert "pruning 99.9 %" in done
    assert "left out" not in done
    assert run("benchmarks/price.py", "--out", tmp_path / "none.jsonl", "--summary").strip()


@pytest.mark.slow
def test_step_defenses_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    out = run(
        *("benchmarks/step_defenses.py", "--images", 1, "--seconds", 3, "--dropout-seconds", 1),
        *("--seed", 1000, "--json", file),
    )
    assert "withheld: labels" in out
    rows = {(row["defense"], row["attack"]): row["psnr"] for row in json.loads(file.read_text())}
    both = {(defense, attack) for defense in ("soteria", "precode", "dropout") for attack in ("adaptive", "blind")}
    assert set(rows) == {("none", "adaptive"), ("-", "grey"), ("-", "mean color"), *both}
    assert rows["precode", "adaptive"] > 20 > rows["precode", "blind"]


@pytest.mark.slow
def test_ceilings_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    tiny = ("--size", 8, "--width", 4, "--images", 1, "--nets", "wide", "--seconds", 0.3, "--rows", file)
    out = run("benchmarks/ceilings.py", "--seed", 1000, *tiny)
    assert "given: labels" in out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["std"], row["attack"]) for row in rows] == [
        (std, attack) for std in (1e-4, 1e-3, 1e-2, 1e-1) for attack in ("staged", "auto")
    ]
    assert all(0 < row["floors"]["smooth"] <= row["floors"]["cramer_rao"] for row in rows)
    assert all(row["floors"]["public"] is not None for row in rows)
    again = run("benchmarks/ceilings.py", "--seed", 1000, *tiny)
    assert again.splitlines()[0] == out.splitlines()[-len(again.splitlines())]  # nothing is computed twice
    assert len(file.read_text().splitlines()) == len(rows)


@pytest.mark.slow
def test_screening_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    tiny = ("--images", 4, "--size", 8, "--nets", "wide", "--noise", 0.5, "--seed", 1000, "--json", file)
    assert "score" in run("benchmarks/screening.py", *tiny)
    assert json.loads(file.read_text())


@pytest.mark.slow
def test_encoders_benchmark(tmp_path: Path) -> None:
    text, file = tmp_path / "text.txt", tmp_path / "rows.json"
    names = ["Ann", "Ben", "Cleo", "Dan"]
    text.write_text("\n".join(f"{name} met {other} by the old {name} bridge ." for name in names for other in names))
    sizes = ["--vocabulary", 80, "--length", 14, "--hidden", 64, "--layers", 2, "--batches", 1, "--trials", 1]
    out = run("benchmarks/encoders.py", "--text", text, *sizes, "--seed", 1000, "--json", file)
    assert "all right 1 of 1" in out
    rows = json.loads(file.read_text())
    assert [row["head"] for row in rows] == ["class", "masked"]
    assert all(row["exact"] == 1 and row["converged"] == 1 for row in rows)


@pytest.mark.slow
def test_span_test_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    text, file = tmp_path / "text.txt", tmp_path / "rows.jsonl"
    words = [f"{first}{second}" for first in ("fox", "dog", "cat") for second in ("es", "like", "fish", "wood", "less")]
    lines = [" ".join(words[(3 * line + 7 * place * place) % len(words)] for place in range(9)) for line in range(40)]
    text.write_text("\n".join(lines))
    tiny = ("--width", 64, "--layers", 2, "--vocabulary", 300, "--length", 8, "--trials", 1, "--seed", 1000)
    out = run(
        "benchmarks/span_test.py", "--text", text, "--private", text, *tiny, "--batch-sizes", 1, 3, "--jsonl", file
    )
    assert "withheld: labels, lengths" in out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["batch_size"], row["exact"]) for row in rows] == [(1, 1.0), (3, 1.0)]


@pytest.mark.slow
def test_token_evidence_benchmark(tmp_path: Path) -> None:
    text, file = tmp_path / "text.txt", tmp_path / "rows.json"
    names = ["Ann", "Ben", "Cleo", "Dan"]
    text.write_text("\n".join(f"{name} met {other} by the old {name} bridge ." for name in names for other in names))
    sizes = ["--vocabulary", 80, "--length", 14, "--batches", 1, "--trials", 1, "--models", "BERT class", "BERT masked"]
    run("benchmarks/token_evidence.py", "--text", text, *sizes, "--seed", 1000, "--json", file)
    plain, noisy, masked = json.loads(file.read_text())
    assert (plain["tokens"], plain["false"], plain["certain"], plain["longest"]) == (1, 0, 1, 1)
    assert noisy["certain"] == 0
    assert (masked["targets"], masked["counts"]) == (1, 1)
