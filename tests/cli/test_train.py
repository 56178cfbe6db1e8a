"""`gradleak train`: plan, results, exit codes, and what comes after."""

import json
from pathlib import Path

import pytest
import torch

import gradleak as gl
from gradleak.evidence import save_update
from gradleak.training import read_checkpoint
from gradleak.zoo.data import load
from gradleak.zoo.models import load_weights, mlp
from tests.cli.running import run
from tests.training.tiny import SINGLE, files


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text("# Tiny.\n" + json.dumps(SINGLE))
    return path


def test_training_in_one_command_is_that_of_the_library(spec: Path, tmp_path: Path) -> None:
    done = run("train", spec, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["status"] == "finished"
    assert [found["fraction"] for found in facts["checkpoints"]] == [0, 0.1, 1]
    assert facts["checkpoints"][2]["test"]["accuracy"] == facts["last"]["test_accuracy"]
    gl.train(spec, out=tmp_path / "library")
    assert files(tmp_path / "out") == files(tmp_path / "library")
    again = run("train", spec, "--out", tmp_path / "out")
    assert again.code == 0
    assert "Everything was trained before." in again.out
    assert "% " in again.out


def test_a_dry_run_says_what_would_come_and_writes_nothing(spec: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    done = run("train", spec, "--dry-run", "--out", tmp_path / "out", "--json")
    facts = json.loads(done.out)
    assert (facts["examples"], facts["test_examples"], facts["units"]) == (1438, 359, 46)
    assert [stage["unit"] for stage in facts["checkpoints"]] == [0, 5, 46]
    assert facts["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert 0 < facts["seconds"] < 60
    words = run("train", spec, "--dry-run").out
    assert words.startswith("Tiny.")
    assert "46 steps" in words
    assert sorted(tmp_path.iterdir()) == before


def test_mistakes_end_with_exit_code_2(spec: Path, tmp_path: Path) -> None:
    assert run("train", spec).problems == ["error: --out: expected a folder for checkpoints, got none; add --out DIR"]
    done = run("train", spec, "--out", tmp_path / "out", "--set", "optimizer.lrr=1", "--set", "batch_size=0")
    assert done.code == 2
    assert len(done.problems) == 2
    assert "did you mean 'lr'?" in done.err
    assert not (tmp_path / "out").exists()
    unknown = run("train", "digit", "--dry-run")
    assert unknown.code == 2
    assert "did you mean 'digits'?" in unknown.err


def test_a_diverged_training_ends_with_exit_code_3(spec: Path, tmp_path: Path) -> None:
    done = run("train", spec, "--out", tmp_path / "out", "--set", "optimizer.lr=1e12")
    assert done.code == 3
    assert "Diverged at step" in done.out
    assert "stage-0.0.safetensors" in "".join(done.out.split())


def test_attack_and_check_take_model_and_normalization_from_a_checkpoint(spec: Path, tmp_path: Path) -> None:
    scaled = ("--set", "model.mean=0.3", "--set", "model.std=0.35")
    assert run("train", spec, "--out", tmp_path / "out", *scaled).code == 0
    checkpoint = tmp_path / "out" / "stage-0.1.safetensors"
    facts = read_checkpoint(checkpoint)
    model = load_weights(mlp(64, (16,), 10), checkpoint)
    task = gl.Task(model, gl.ImageSpace((1, 8, 8), facts.space.mean, facts.space.std), facts.num_classes)
    data = load("digits")
    observation, _ = gl.capture(task, data.inputs[:1], data.targets[:1])
    update = tmp_path / "update.safetensors"
    save_update(update, observation)
    done = run(
        "attack", update, "--weights", checkpoint, "--attack", "linear_layer", "--json", "--out", tmp_path / "found"
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["status"] == "converged"
    assert found["targets"] == data.targets[:1].tolist()
    checked = run("check", update, "--weights", checkpoint, "--data", "digits", "--indices", "0")
    assert checked.code == 0, checked.err
    other = tmp_path / "out" / "stage-1.0.safetensors"
    assert run("check", update, "--weights", other, "--data", "digits", "--indices", "0", "--max-seconds", 1).code == 2
    missing = run("attack", update)
    assert missing.problems == [
        "error: --model: expected a model, got none; add it, or a checkpoint of gradleak train as --weights"
    ]
    assert torch.is_grad_enabled()
