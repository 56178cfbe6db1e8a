"""`gradleak check`: verdicts and causes through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import gradleak as gl
from tests.cli.factories import CLASSES, batch, normalized, write_update
from tests.cli.running import Done, run

MODEL = "tests.cli.factories:net"
FOREIGN = ("--kind", "gradient", "--input-shape", "1,6,6", "--num-classes", CLASSES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An update of three examples, and data that begin with them."""
    write_update(tmp_path / "update.safetensors", 3)
    inputs, targets = batch(5)
    # A longer draw from the same stream continues a shorter one only for the inputs, so both are put together.
    inputs[:3], targets[:3] = batch(3)
    save_file({"inputs": inputs, "targets": targets}, tmp_path / "data.safetensors")
    np.savez(tmp_path / "batch.npz", inputs=inputs[:3].numpy(), targets=targets[:3].numpy())
    return tmp_path


def verdict(done: Done) -> dict[str, Any]:
    assert not done.err, done.err
    return json.loads(done.out)


def foreign(folder: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    observation = write_update(folder / "update.safetensors", 3)
    tensors = {name: change(name, tensor) for name, tensor in observation.update.tensors.items()}
    save_file(tensors, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


def test_the_true_batch_is_consistent(folder: Path) -> None:
    arguments = ("check", folder / "update.safetensors", "--model", MODEL, "--data", folder / "batch.npz")
    done = run(*arguments)
    assert done.code == 0
    assert done.out.startswith("consistent: update.safetensors")
    assert "stored as float32" in done.out
    found = verdict(run(*arguments, "--json"))
    assert found["consistent"] is True
    assert found["causes"] == []
    assert found["relative_error"] <= found["tolerance"]


def test_indices_choose_and_order_the_examples(folder: Path) -> None:
    arguments = ("check", folder / "update.safetensors", "--model", MODEL, "--data", folder / "data.safetensors")
    assert run(*arguments, "--indices", "0,1,2").code == 0
    assert run(*arguments, "--indices", "2,0,1").code == 0  # a mean knows no order
    assert run(*arguments, "--indices", "0,1,4").code == 2
    without = run(*arguments)
    assert without.code == 2
    assert without.problems[0].endswith("got 5; add --indices, for instance 0,5")
    assert "expected 3 examples" in run(*arguments, "--indices", "0,1").problems[0]
    assert "expected 0 to 4" in run(*arguments, "--indices", "0,1,5").problems[0]


def test_the_verdict_comes_first_and_the_cause_second(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradleak.cli.console.console.width", 60)
    path = foreign(folder, lambda _, tensor: -tensor)
    done = run("check", path, "--model", MODEL, "--data", folder / "batch.npz", "--indices", "0,1,2", *FOREIGN)
    assert done.code == 2
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("NOT consistent: foreign.safetensors")
    assert any(line.startswith("cause: sign: ") for line in lines[1:4])
    assert done.out.index("cause: sign") < done.out.index("layers that differ most")


CHANGES: dict[str, Callable[[str, Tensor], Tensor]] = {
    "sum": lambda _, tensor: 3 * tensor,
    "delta_as_gradient": lambda _, tensor: -0.05 * tensor,
    "transposed": lambda name, tensor: tensor.T if name == "linear1.weight" else tensor,
}


@pytest.mark.parametrize("cause", CHANGES)
def test_causes_have_names_in_json(folder: Path, cause: str) -> None:
    path = foreign(folder, lambda name, tensor: CHANGES[cause](name, tensor).contiguous())
    done = run("check", path, "--model", MODEL, "--data", folder / "batch.npz", "--batch-size", 3, *FOREIGN, "--json")
    assert done.code == 2
    found = verdict(done)
    assert found["consistent"] is False
    assert [(entry["name"], entry["proven"]) for entry in found["causes"]] == [(cause, True)]


def test_names_that_do_not_agree_are_a_cause_and_no_refusal(folder: Path) -> None:
    arguments = ("check", folder / "update.safetensors", "--data", folder / "batch.npz", "--json")
    found = verdict(run(*arguments, "--model", "tests.cli.factories:other_names"))
    (cause,) = found["causes"]
    assert cause["name"] == "renamed"
    assert "linear.weight looks like 0.linear.weight" in cause["explanation"]
    assert found["relative_error"] <= found["tolerance"]
    assert list(found["per_layer"])[0] == "0.linear1.weight"


def test_the_mode_can_be_said(folder: Path) -> None:
    client = gl.clients.Gradient(mode="train")
    threat = gl.ThreatModel(client_known=False)
    write_update(folder / "bn.safetensors", 3, client=client, threat=threat, model=normalized())
    arguments = ("check", folder / "bn.safetensors", "--data", folder / "batch.npz")
    model = ("--model", "tests.cli.factories:normalized")
    found = verdict(run(*arguments, *model, "--json"))
    assert [cause["name"] for cause in found["causes"]] == ["mode"]
    assert run(*arguments, *model, "--mode", "train").code == 0


def test_a_zero_update_is_not_evidence(folder: Path) -> None:
    path = foreign(folder, lambda _, tensor: torch.zeros_like(tensor))
    done = run("check", path, "--model", MODEL, "--data", folder / "batch.npz", "--batch-size", 3, *FOREIGN, "--json")
    assert done.code == 2
    found = verdict(done)
    assert [cause["name"] for cause in found["causes"]] == ["empty"]
    assert found["relative_error"] is None


def test_help_documents_the_exit_codes() -> None:
    done = run("check", "--help")
    assert done.code == 0
    words = " ".join(done.out.split())
    assert "exit code is 0 if the update is consistent, and 2 if it is not" in words.replace("│", "")
