"""`gradleak learn`, and `gradleak attack` with what it wrote."""

import json
from pathlib import Path

import pytest

import gradleak as gl
from gradleak.evidence import save_update
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet
from tests.cli.running import run

WORDS = ("--model", "lenet-dlg", "--model-seed", 3, "--data", "digits", "--epochs", 2, "--hidden", 16)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learn") / "out"
    done = run("learn", *WORDS, "--features", 256, "--defense", "TopK keep=0.1", "--out", folder)
    assert done.code == 0, done.err
    assert "mean input instead" in done.out
    assert "lenet-dlg, Gradient, TopK" in done.out
    return folder


def test_an_update_file_is_attacked_with_the_inverter(out: Path, tmp_path: Path) -> None:
    data = load("digits")
    task = gl.Task(lenet(10, 1, input_size=8, seed=3), gl.ImageSpace((1, 8, 8)), 10)
    update = tmp_path / "update.safetensors"
    observation, _ = gl.capture(task, data.inputs[:1], data.targets[:1], defenses=(gl.defenses.TopK(0.1),))
    save_update(update, observation)
    words = ("attack", update, "--model", "lenet-dlg", "--attack", "learned", "--json")
    done = run(*words, "--model-seed", 3, "--inverter", out / "inverter.safetensors")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["attack"] == "learned"
    assert facts["status"] == "budget"
    other = run(*words, "--model-seed", 4, "--inverter", out / "inverter.safetensors")
    assert other.code == 2
    assert len(other.problems) == 1
    assert "expected one trained for this model" in other.problems[0]
    without = run(*words, "--model-seed", 3)
    assert without.code == 2
    assert "--inverter: expected a file of gradleak learn" in without.problems[0]


def test_the_same_command_does_nothing_twice(out: Path) -> None:
    done = run("learn", *WORDS, "--features", 256, "--defense", "TopK keep=0.1", "--out", out, "--json")
    assert done.code == 0
    assert json.loads(done.out)["message"] == "Everything was trained before."


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--defense", "Topk keep=0.1"), "--defense Topk: expected"),
        (("--defense", "TopK keep=2"), "--defense TopK.keep: expected a share"),
        (("--defense", "TopK keep"), "--defense TopK: expected key=value, got 'keep'"),
        (("--hidden", "0"), "--hidden: expected at least 1"),
        (("--hidden", "many"), "--hidden: expected whole numbers"),
        (("--batch", 0), "--batch: expected at least 1, got 0"),
        (("--data", "nowhere"), "--data: "),
        (("--num-classes", 5), "data: expected classes below 5"),
    ],
)
def test_bad_words_are_one_line_each(words: tuple[object, ...], problem: str, tmp_path: Path) -> None:
    done = run("learn", *WORDS, "--out", tmp_path / "out", *words)
    assert done.code == 2
    assert len(done.problems) == 1, done.err
    assert done.problems[0].startswith(f"error: {problem}")
    assert not (tmp_path / "out").exists()
