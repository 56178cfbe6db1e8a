"""`gradleak attack`: options, results, pictures, and what is left on disk."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

import gradleak as gl
from gradleak.cli.console import progress_reporter
from gradleak.zoo.models import REFERENCE_MODELS
from tests.cli.factories import CLASSES, SHAPE, batch, net, task, write_update
from tests.cli.running import Done, run

MODEL = "tests.cli.factories:net"
QUICK = ("--attack", "dlg", "--max-evaluations", 20)


def result(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.fixture
def update(tmp_path: Path) -> Path:
    write_update(tmp_path / "update.safetensors")
    return tmp_path / "update.safetensors"


def test_json_is_what_the_library_computes(update: Path) -> None:
    found = result(run("attack", update, "--model", MODEL, "--seed", 5, *QUICK, "--json"))
    observation, _ = gl.capture(task(), *batch(1))
    expected = gl.attacks.dlg(max_evaluations=20)(observation, seed=5)
    assert found["objective"] == expected.objective
    assert found["targets"] == expected.targets.tolist()
    relative = expected.objective / observation.update.squared_norm()
    assert found["relative_error"] == pytest.approx(relative, rel=1e-5)
    assert found["evaluations"] == 20
    assert found["threat"] == "given: batch size, client, defense; withheld: labels"
    assert found["targets_given"] is False
    assert found["written"] == []


def test_table_is_whole_at_60_columns(update: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradleak.cli.console.console.width", 60)
    done = run("attack", update, "--model", MODEL, *QUICK, "--out", tmp_path / "found")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 60
    assert "…" not in done.out
    words = " ".join(done.out.split())
    for expected in ("status", "objective", "relative error", "evaluations 20", "(recovered)", "withheld: labels"):
        assert expected in words
    assert "reconstruction.safetensors" in "".join(done.out.split())


def test_progress_and_errors_stay_out_of_json(update: Path) -> None:
    # json.loads refuses anything before or after the object.
    done = run("attack", update, "--model", MODEL, "--attack", "dlg", "--max-evaluations", 200, "--json")
    json.loads(done.out)
    assert len(done.err.splitlines()) <= 3


def test_folder_holds_reconstruction_and_enlarged_pictures(tmp_path: Path) -> None:
    write_update(tmp_path / "update.safetensors", 2, threat=gl.ThreatModel(labels_known=True))
    out = tmp_path / "new" / "found"
    found = result(run("attack", tmp_path / "update.safetensors", "--model", MODEL, *QUICK, "--out", out, "--json"))
    assert found["targets_given"] is True
    with safe_open(out / "reconstruction.safetensors", framework="pt") as file:
        inputs, targets = file.get_tensor("inputs"), file.get_tensor("targets")
    assert tuple(inputs.shape) == (2, *SHAPE)
    assert targets.tolist() == batch(2)[1].tolist() == found["targets"]
    pictures = sorted(out.glob("*.png"))
    assert [str(path) for path in sorted(out.iterdir())] == found["written"]
    assert len(pictures) == 2
    assert sorted(path.name for path in out.parent.iterdir()) == ["found"]
    for picture, image in zip(pictures, inputs, strict=True):
        pixels = np.asarray(Image.open(picture))
        factor = pixels.shape[0] // SHAPE[1]
        assert factor > 10
        expected = np.rint(image[0].double().numpy() * 255).repeat(factor, axis=0).repeat(factor, axis=1)
        np.testing.assert_array_equal(pixels, expected)


def test_given_labels_are_said_to_be_given(update: Path) -> None:
    done = run("attack", update, "--model", MODEL, "--labels", 2, *QUICK)
    assert done.code == 0
    assert "2 (given)" in done.out
    assert "given: labels" in done.out


def test_a_zero_update_is_a_result(tmp_path: Path) -> None:
    observation = write_update(tmp_path / "update.safetensors")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in observation.update.tensors.items()}
    save_file(zeros, tmp_path / "zero.safetensors")
    foreign = ("--kind", "gradient", "--input-shape", "1,6,6", "--num-classes", CLASSES, "--batch-size", 1)
    arguments = ("attack", tmp_path / "zero.safetensors", "--model", MODEL, *foreign, "--out", tmp_path / "found")
    found = result(run(*arguments, "--json"))
    assert found["status"] == "not_applicable"
    assert found["objective"] is None
    assert "zero" in found["message"]
    assert found["written"] == []
    assert not (tmp_path / "found").exists()
    done = run(*arguments)
    assert done.code == 0
    assert "not applicable" in done.out


def test_a_foreign_file_gives_the_same_attack(update: Path, tmp_path: Path) -> None:
    observation, _ = gl.capture(task(), *batch(1))
    save_file(dict(observation.update.tensors), tmp_path / "foreign.safetensors")
    options = ("--kind", "gradient", "--input-shape", "1,6,6", "--num-classes", CLASSES, "--batch-size", 1)
    foreign = result(run("attack", tmp_path / "foreign.safetensors", "--model", MODEL, *options, *QUICK, "--json"))
    own = result(run("attack", update, "--model", MODEL, *QUICK, "--json"))
    assert foreign["objective"] == own["objective"]
    assert foreign["threat"] == "given: batch size; withheld: labels, client, defense"


def test_a_foreign_file_without_batch_size_says_how_to_go_on(tmp_path: Path) -> None:
    observation, _ = gl.capture(task(), *batch(1))
    save_file(dict(observation.update.tensors), tmp_path / "foreign.safetensors")
    options = ("--kind", "gradient", "--input-shape", "1,6,6", "--num-classes", CLASSES)
    done = run("attack", tmp_path / "foreign.safetensors", "--model", MODEL, "--attack", "dlg", *options)
    assert done.code == 0
    assert "--batch-size" in done.out


def test_a_model_of_the_zoo_is_built_for_the_update(tmp_path: Path) -> None:
    card = next(card for card in REFERENCE_MODELS if card.name == "lenet-dlg")
    observation = write_update(tmp_path / "update.safetensors", model=card.factory(SHAPE, CLASSES, 7))
    arguments = ("attack", tmp_path / "update.safetensors", "--model", "lenet-dlg", *QUICK, "--json")
    found = result(run(*arguments, "--model-seed", 7))
    assert found["objective"] == gl.attacks.dlg(max_evaluations=20)(observation).objective
    assert result(run(*arguments))["objective"] != found["objective"]


def test_weights_come_from_the_file(tmp_path: Path) -> None:
    with torch.no_grad():
        model = net()
        for parameter in model.parameters():
            parameter.mul_(2)
    observation = write_update(tmp_path / "update.safetensors", model=model)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    weights = ("--weights", tmp_path / "weights.safetensors")
    found = result(run("attack", tmp_path / "update.safetensors", "--model", MODEL, *weights, *QUICK, "--json"))
    assert found["objective"] == gl.attacks.dlg(max_evaluations=20)(observation).objective


def test_a_diverged_search_is_a_result_in_clear_words(tmp_path: Path) -> None:
    observation, _ = gl.capture(task(), *batch(1))
    # Entries this large overflow when squared in float32, so no candidate has a finite objective.
    huge = {name: torch.full_like(tensor, 1e30) for name, tensor in observation.update.tensors.items()}
    save_file(huge, tmp_path / "huge.safetensors")
    options = ("--kind", "gradient", "--input-shape", "1,6,6", "--num-classes", CLASSES, "--batch-size", 1)
    done = run("attack", tmp_path / "huge.safetensors", "--model", MODEL, *options, *QUICK)
    assert done.code == 0, done.err
    assert "diverged" in done.out


def test_the_current_directory_is_importable_and_the_module_runs_as_a_program(update: Path, tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(
        "from gradleak.zoo.models import mlp\ndef build():\n    return mlp(36, (8,), 4, seed=3)\n", encoding="utf-8"
    )
    source = str(Path(gl.__file__).parents[1])
    done = subprocess.run(
        # -P keeps Python itself from adding the current directory, as for the installed command
        [sys.executable, "-P", "-m", "gradleak", "attack", str(update), "--model", "my_models:build", "--json"]
        + ["--attack", "dlg", "--max-evaluations", "5"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluations"] == 5


def test_threads_are_left_as_they_were(update: Path) -> None:
    before = torch.get_num_threads()
    run("attack", update, "--model", MODEL, *QUICK, "--threads", before + 1)
    assert torch.get_num_threads() == before


def test_without_a_terminal_progress_is_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("gradleak.cli.console.time.monotonic", lambda: float(next(clock)))
    seen = io.StringIO()
    monkeypatch.setattr("gradleak.cli.console.errors", Console(file=seen))
    with progress_reporter("dlg", 300) as report:
        for evaluations in range(100):  # one call a second
            report(evaluations, 0.5)
    lines = seen.getvalue().splitlines()
    assert 10 <= len(lines) <= 20
    assert all(line.endswith("of 300 evaluations, objective 5.000e-01") for line in lines)


def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    monkeypatch.setattr("gradleak.cli.console.errors", Console(file=seen, force_terminal=True, width=100))
    with progress_reporter("dlg", 300) as report:
        report(150, 0.25)
    assert "150 evaluations" in seen.getvalue()
    assert "2.50e-01" in seen.getvalue()
