"""Checkpoints: what they say, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import gradleak as gl
from gradleak.training import find_checkpoint, read_checkpoint
from gradleak.zoo.data import load
from gradleak.zoo.models import load_weights, mlp
from tests.training.tiny import SINGLE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    gl.train(SINGLE, out=out, overrides=["model.mean=0.3", "model.std=0.35"])
    return out


def test_a_checkpoint_says_everything_that_an_audit_must_state(trained: Path) -> None:
    found = read_checkpoint(trained / "stage-0.1.safetensors")
    assert found.model.name == "mlp"
    assert found.model.settings == {"hidden": [16]}
    assert (found.data.name, found.data.examples, found.data.test_examples) == ("digits", 1438, 359)
    assert found.data.held_out
    assert (found.space.shape, found.space.mean, found.space.std) == ((1, 8, 8), (0.3,), (0.35,))
    assert (found.fraction, found.stage, found.units, found.of_units) == (0.1, "10 % of training", 5, 46)
    assert found.spec["optimizer"]["lr"] == 0.1
    assert found.facts()["test_accuracy"] == round(found.test.accuracy, 4)


def test_its_accuracy_is_that_of_its_tensors_on_the_examples_that_were_held_out(trained: Path) -> None:
    found = read_checkpoint(trained / "stage-1.0.safetensors")
    test, train = load("digits").split(359, seed=0)
    model = load_weights(mlp(64, (16,), 10), trained / "stage-1.0.safetensors")
    with torch.no_grad():
        correct = model((test.inputs - 0.3) / 0.35).argmax(1) == test.targets
    assert len(train) == found.data.examples
    assert float(correct.double().mean()) == found.test.accuracy > 0.8


def test_the_untrained_stage_is_the_network_of_the_seed(trained: Path) -> None:
    model = load_weights(mlp(64, (16,), 10, seed=5), trained / "stage-0.0.safetensors")
    fresh = mlp(64, (16,), 10, seed=0)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), fresh.parameters(), strict=True))


def test_a_checkpoint_of_another_model_names_the_tensors(trained: Path) -> None:
    with pytest.raises(gl.BadInput) as caught:
        load_weights(mlp(64, (17, 9), 10), trained / "stage-1.0.safetensors")
    text = "\n".join(caught.value.problems)
    assert "expected shape [17, 64], got [16, 64]" in text
    assert len(caught.value.problems) >= 4


def test_tensors_without_facts_are_no_checkpoint(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    assert find_checkpoint(tmp_path / "plain.safetensors") is None
    with pytest.raises(gl.BadInput, match="expected a checkpoint of gradleak train"):
        read_checkpoint(tmp_path / "plain.safetensors")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"version": 9}, "version"),
        ({"fraction": 2}, "fraction"),
        ({"extra": 1}, "extra"),
        ({"train": {"loss": 1, "accuracy": "high", "examples": 3}}, "train.accuracy"),
    ],
)
def test_facts_that_cannot_be_used_are_refused(
    trained: Path, tmp_path: Path, change: dict[str, object], place: str
) -> None:
    with safe_open(trained / "stage-1.0.safetensors", framework="pt") as file:
        facts = {**json.loads(file.metadata()["gradleak"]), **change}
    save_file({"a": torch.zeros(2)}, tmp_path / "odd.safetensors", metadata={"gradleak": json.dumps(facts)})
    with pytest.raises(gl.BadInput) as caught:
        read_checkpoint(tmp_path / "odd.safetensors")
    assert f"metadata {place}: expected" in caught.value.problems[0]
