"""`gradleak inspect`: what it prints, as text for narrow terminals and as JSON."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from gradleak.zoo.models import lenet
from tests.cli.running import run

SMALL = ("--model", "tests.cli.factories:net", "--input-shape", "1,6,6", "--num-classes", 4)


def test_verdict_comes_first_and_lines_are_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run("inspect", "--model", "lenet-relu")
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == "kinks at relu; between the kinks the outputs are linear in the input"
    assert "2 random examples of photographs" in lines[1]
    assert max(map(len, lines)) <= 80
    for word in ("operations", "measured", "what the attacks do", "in a faithful audit", "softplus"):
        assert word in done.out


def test_double_backward_is_told_by_kernels() -> None:
    done = run("inspect", "--model", "tests.cli.factories:attention", "--input-shape", "1,6,6", "--num-classes", 4)
    assert done.out.startswith("smooth everywhere; the engine's plain kernels replace")
    told = " ".join(done.out.split("\nmeasured")[1].split())
    assert "own kernels: derivative for" in told
    assert "math attention kernels: runs" in told


def test_smooth_models_have_no_table_of_operations() -> None:
    done = run("inspect", "--model", "lenet-dlg")
    assert done.out.startswith("smooth everywhere\n")
    assert "operations" not in done.out


def test_json_holds_everything() -> None:
    found = json.loads(run("inspect", *SMALL, "--json").out)
    assert found["verdict"] == "kinks"
    assert found["data"] == "digits"
    assert found["findings"][0]["operation"] == "relu"
    assert {"derivatives", "parameters", "conditions", "routes", "replacements"} <= set(found)


def test_weights_are_loaded(tmp_path: Path) -> None:
    model = lenet(10, input_size=32, initialization="default", seed=5)
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    one, other = (
        json.loads(run("inspect", "--model", "lenet-default", *words, "--json").out)
        for words in (("--weights", file), ("--model-seed", 5))
    )
    assert one["derivatives"] == other["derivatives"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--model", "resnet21"), "expected package.module:factory or one of"),
        (("--model", "tests.cli.factories:net"), "expected it to accept an input of shape [3, 32, 32]"),
        ((*SMALL, "--data", "nowhere"), "nowhere"),
        ((*SMALL, "--mean", "a"), "--mean: expected numbers"),
        ((*SMALL, "--examples", 100000), "--examples: expected at most"),
    ],
    ids=["model", "shape", "data", "mean", "examples"],
)
def test_bad_words_are_refused(words: tuple[object, ...], problem: str) -> None:
    done = run("inspect", *words)
    assert done.code == 2
    assert problem in done.err
