"""Update files: what was written comes back, what is withheld is not written, and nothing else is believed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import gradleak as gl
from gradleak.evidence import load_update, save_update
from gradleak.zoo.models import mlp

SPACE = gl.ImageSpace((1, 4, 4), mean=(0.25,), std=(0.5,))


def task() -> gl.Task:
    return gl.Task(mlp(16, (5,), 3, seed=0), SPACE, 3)


def observe(threat: gl.ThreatModel | None = None, targets: Tensor | None = None) -> gl.Observation:
    inputs = torch.linspace(0, 1, 32).reshape(2, 1, 4, 4)
    observation, _ = gl.capture(
        task(),
        inputs,
        torch.tensor([2, 0]) if targets is None else targets,
        client=gl.clients.Gradient(mode="train", dropout="off"),
        defenses=[gl.defenses.GaussianNoise(std=0.125)],
        threat=threat,
    )
    return observation


def facts(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["gradleak"])


def rewrite(path: Path, **changes: object) -> None:
    """Change facts in a file's metadata; None as a value is kept, `...` removes the fact."""
    stated = {key: value for key, value in {**facts(path), **changes}.items() if value is not ...}
    save_file(load_file(path), path, metadata={"gradleak": json.dumps(stated)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_update(tmp_path / "update.safetensors", observe())
    return tmp_path / "update.safetensors"


# ---- round trip --------------------------------------------------------------------------------------------------


def test_everything_comes_back(path: Path) -> None:
    observation = observe()
    evidence = load_update(path)
    assert evidence.update.kind == "gradient"
    assert evidence.threat == observation.threat
    assert evidence.client == gl.clients.Gradient(mode="train", dropout="off")
    assert evidence.defenses == (gl.defenses.GaussianNoise(std=0.125),)
    assert evidence.batch_size == 2
    assert evidence.targets is None
    assert evidence.space == SPACE
    assert evidence.num_classes == 3
    again = evidence.observation(task())
    assert list(again.update.tensors) == list(observation.state.parameters)
    for name, tensor in observation.update.tensors.items():
        assert torch.equal(again.update.tensors[name], tensor)
    assert (
        gl.attacks.dlg(max_evaluations=3)(again).objective == gl.attacks.dlg(max_evaluations=3)(observation).objective
    )


@pytest.mark.parametrize("targets", [torch.tensor([2, 0]), torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.0, 0.75]])])
def test_targets_travel_only_if_they_are_given(tmp_path: Path, targets: Tensor) -> None:
    save_update(tmp_path / "known.safetensors", observe(gl.ThreatModel(labels_known=True), targets))
    known = load_update(tmp_path / "known.safetensors")
    assert known.threat.labels_known
    assert known.targets is not None
    assert torch.equal(known.targets, targets)


def test_withheld_facts_are_not_in_the_file(tmp_path: Path) -> None:
    nothing = gl.ThreatModel(batch_size_known=False, client_known=False, defense_known=False)
    save_update(tmp_path / "update.safetensors", observe(nothing))
    stated = facts(tmp_path / "update.safetensors")
    assert [stated[name] for name in ("targets", "batch_size", "client", "defenses")] == [None] * 4
    evidence = load_update(tmp_path / "update.safetensors")
    assert evidence.threat == nothing
    # A defense that is withheld is not the same as none.
    assert evidence.defenses is None


def test_the_model_is_not_in_the_file(path: Path) -> None:
    stored = load_file(path)
    assert set(stored) == set(observe().state.parameters)
    assert not any(torch.equal(stored[name], value) for name, value in observe().state.parameters.items())


def test_numbers_keep_their_format(tmp_path: Path) -> None:
    observation = observe()
    half = {name: tensor.half() for name, tensor in observation.update.tensors.items()}
    save_update(tmp_path / "half.safetensors", replace(observation, update=gl.Update(half)))
    assert {tensor.dtype for tensor in load_update(tmp_path / "half.safetensors").update.tensors.values()} == {
        torch.float16
    }


def test_a_kind_that_is_said_wins(path: Path) -> None:
    assert load_update(path, kind="delta").update.kind == "delta"


def test_a_foreign_file_says_nothing_but_its_tensors(path: Path) -> None:
    save_file(load_file(path), path)
    with pytest.raises(gl.BadInput, match="add --kind gradient or delta"):
        load_update(path)
    evidence = load_update(path, kind="delta")
    assert evidence.threat == gl.ThreatModel(batch_size_known=False, client_known=False, defense_known=False)
    assert (evidence.client, evidence.defenses, evidence.batch_size, evidence.space) == (None, None, None, None)


# ---- facts that cannot be true -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "metadata version"),
        ({"kind": "weights"}, "metadata kind"),
        ({"surprise": 1}, "metadata surprise"),
        ({"space": ...}, "metadata space"),
        ({"num_classes": "many"}, "metadata num_classes"),
        ({"client": {"name": "Nobody"}}, "client: expected a name among"),
        ({"client": {"name": "Gradient", "mode": "test"}}, "client.mode"),
        ({"client": {"name": "Gradient", "rate": 1}}, "client.rate"),
        ({"defenses": [{"name": "GaussianNoise"}]}, "defense.std"),
        ({"threat": {"everything_known": True}}, "threat.everything_known"),
        ({"space": {"name": "ImageSpace", "shape": [4, 4]}}, "space"),
    ],
)
def test_facts_are_checked(path: Path, changes: dict[str, object], words: str) -> None:
    rewrite(path, **changes)
    with pytest.raises(gl.BadInput) as refused:
        load_update(path)
    assert any(words in problem for problem in refused.value.problems)
    assert all(str(path) in problem for problem in refused.value.problems)


def test_metadata_that_are_no_json(path: Path) -> None:
    save_file(load_file(path), path, metadata={"gradleak": "{"})
    with pytest.raises(gl.BadInput, match="metadata"):
        load_update(path)


def test_all_problems_with_a_task_are_listed(path: Path) -> None:
    rewrite(path, batch_size=0, targets=[7])
    evidence = load_update(path, kind="delta")
    tensors = dict(evidence.update.tensors)
    del tensors["linear.bias"]
    tensors["more"] = torch.ones(1)
    tensors["linear1.bias"] = tensors["linear1.bias"] * float("nan")
    with pytest.raises(gl.BadInput) as refused:
        replace(evidence, update=gl.Update(tensors, "delta")).observation(task())
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "update[linear.bias]",
        "update[linear1.bias]",
        "update[more]",
        "batch size",
        "targets",
        "update kind",
    ]


# ---- writing -----------------------------------------------------------------------------------------------------


def test_an_old_file_is_replaced_whole(path: Path) -> None:
    save_update(path, observe(gl.ThreatModel(labels_known=True)))
    assert load_update(path).targets is not None
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gl.BadInput, match="expected a place to write to"):
        save_update(tmp_path / "none" / "update.safetensors", observe())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "update.safetensors").mkdir()
    with pytest.raises(gl.BadInput, match="expected a place to write to"):
        save_update(tmp_path / "update.safetensors", observe())
    assert [entry.name for entry in tmp_path.iterdir()] == ["update.safetensors"]
