"""From plain data to trials: the same as the objects would be."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import gradleak as gl
from gradleak.attacks import dlg
from gradleak.audits import building
from gradleak.audits.building import build
from gradleak.audits.plan import PlannedTrial, plan
from gradleak.audits.reading import read_spec
from gradleak.audits.trial import Trial, TrialImages, run_trial
from gradleak.clients import Gradient
from gradleak.defenses import GaussianNoise
from gradleak.errors import BadInput
from gradleak.zoo.data import photographs
from gradleak.zoo.models import lenet, mlp
from tests.audits.factories import Doubled, OwnGradient

FOREIGN: dict[str, Any] = {
    "trials": 1,
    "model": "tests.audits.factories:net",
    "data": "tests.audits.factories:noise",
    "client": {"name": "tests.audits.factories:OwnGradient", "mode": "train"},
    "defense": {"name": "tests.audits.factories:Doubled", "factor": 3},
    "attack": {"name": "tests.audits.factories:quick_dlg", "steps": 2},
}


def planned(**changes: object) -> tuple[PlannedTrial, ...]:
    spec = {
        "trials": 2,
        "model": "lenet",
        "data": {"name": "photographs", "size": 8},
        "batch_size": 2,
        "defense": {"name": "GaussianNoise", "std": 1e-4},
        "attack": {"name": "dlg", "outer_steps": 2},
    }
    return plan(read_spec({**spec, **changes}))


def through_json(trial: PlannedTrial) -> Trial:
    return build(json.loads(json.dumps(trial.spec)))


def test_a_built_trial_is_the_planned_one() -> None:
    for trial in planned():
        built = through_json(trial)
        assert built.id == trial.id
        assert built.spec == trial.spec


def test_results_equal_those_of_a_trial_made_by_hand() -> None:
    trial = planned()[1]
    spec = trial.spec
    data = photographs(8)
    by_hand = Trial(
        task=gl.Task(lenet(10, input_size=8, seed=spec["model"]["seed"]), gl.ImageSpace((3, 8, 8)), 10),
        model={"name": "lenet"},
        data={"name": "photographs"},
        examples=spec["examples"],
        inputs=data.inputs[spec["examples"]],
        targets=data.targets[spec["examples"]],
        reference=data.inputs,
        attack=dlg(outer_steps=2),
        attack_settings={"name": "dlg"},
        client=Gradient(),
        defenses=[GaussianNoise(std=1e-4)],
        seed=spec["seed"],
    )
    record, images = run_trial(through_json(trial))
    expected, expected_images = run_trial(by_hand)
    assert record.id == trial.id
    assert str(record.scores) == str(expected.scores)  # NaN equals NaN
    assert record.objective == expected.objective
    assert record.course == expected.course
    assert isinstance(images, TrialImages)
    assert isinstance(expected_images, TrialImages)
    assert torch.equal(images.reconstruction, expected_images.reconstruction)
    assert str(record.baselines["grey"]) == str(expected.baselines["grey"])


def test_foreign_parts_are_built_by_their_references() -> None:
    (trial,) = plan(read_spec(FOREIGN))
    built = through_json(trial)
    assert built.client == OwnGradient(mode="train")
    assert list(built.defenses) == [Doubled(3.0)]
    assert set(trial.spec["code"]) == {"model", "data", "client", "defense.0", "attack"}
    record, _ = run_trial(built)
    assert record.id == trial.id
    assert record.status in {"budget", "converged"}


def test_the_reference_holds_none_of_the_private_examples() -> None:
    built = build(planned()[0].spec)
    assert len(built.reference) == 198
    for private in built.inputs:
        assert not (built.reference == private).flatten(1).all(dim=1).any()


def test_rows_are_built_too() -> None:
    (trial,) = plan(read_spec({"model": "mlp", "data": "tests.audits.factories:rows", "trials": 1}))
    assert build(trial.spec).task.space == gl.TabularSpace(5)


def test_normalization_reaches_the_task() -> None:
    trial = planned(model={"name": "lenet", "mean": [0.5, 0.4, 0.3], "std": 0.25})[0]
    assert build(trial.spec).task.space == gl.ImageSpace((3, 8, 8), (0.5, 0.4, 0.3), (0.25,))


def test_other_data_and_other_weights_than_planned_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(mlp(192, (4,), 10, seed=0).state_dict(), weights)
    trial = planned(model={"name": "mlp", "settings": {"hidden": [4]}, "weights": str(weights)})[0]
    build(trial.spec)
    save_file(mlp(192, (4,), 10, seed=1).state_dict(), weights)
    building.forget()
    with pytest.raises(BadInput, match="expected the weights that the audit was planned with"):
        build(trial.spec)
    moved = {**planned()[0].spec, "examples": [0, 1]}
    with pytest.raises(BadInput, match="expected the examples that the audit was planned with"):
        build(moved)
    with pytest.raises(BadInput, match="expected the examples"):
        build({**moved, "examples": [0, 5000]})


def test_a_trial_of_a_known_model_is_built_in_a_millisecond() -> None:
    trial = planned(model={"name": "lenet", "redraw": False})[0]
    build(trial.spec)
    seconds: list[float] = []
    for _ in range(50):
        began = time.perf_counter()
        build(trial.spec)
        seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[10] < 2e-3
