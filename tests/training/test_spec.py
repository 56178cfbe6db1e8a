"""Training specs: every mistake at once, each with its place and what to do."""

from pathlib import Path
from typing import Any

import pytest

from gradleak.errors import BadInput
from gradleak.training.train import declare_training, shipped_trainings
from tests.training.tiny import FEDERATED, SINGLE


def problems(spec: dict[str, Any] | Path, *overrides: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        declare_training(spec, overrides)
    return list(caught.value.problems)


@pytest.mark.parametrize("spec", [SINGLE, FEDERATED], ids=["single", "federated"])
def test_the_effective_spec_reads_back(spec: dict[str, Any], tmp_path: Path) -> None:
    declared = declare_training(spec)
    (tmp_path / "spec.yaml").write_text(declared.spec.to_yaml("What it is."))
    again = declare_training(tmp_path / "spec.yaml")
    assert again.spec == declared.spec
    assert again.comment == "What it is."


def test_shipped_trainings_say_what_they_are_and_need_at_most_the_data() -> None:
    shipped = shipped_trainings()
    assert {"cifar-convnet", "cifar-lenet", "digits", "digits-federated", "dlg-defenses"} <= set(shipped)
    for name in shipped:
        if name.startswith(("cifar", "dlg")):  # with other data in place of those that are not in the box
            declared = declare_training(name, ["data.name=photographs", "test.name=photographs", "batch_size=8"])
        else:
            declared = declare_training(name)
        assert declared.comment
        assert declared.spec.checkpoints is not None


def test_all_mistakes_come_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "modle: lenet-relu\n"
        "data: {name: digits, sise: 8}\n"
        "epochs: 0\n"
        "optimizer: {lr: -1, schedule: cosinus}\n"
        "checkpoints: [0, 1.5]\n"
    )
    found = problems(path, "federated.alpha=0")
    text = "\n".join(found)
    assert len(found) == 8, text
    for expected in (
        f"{path}:1 modle: expected one of name, model",
        "did you mean 'model'?",
        f"{path}:2 data.sise:",
        "did you mean 'size'?",
        f"{path}:3 epochs: expected at least 1, got 0",
        f"{path}:4 optimizer.lr: expected more than 0, got -1",
        f"{path}:4 optimizer.schedule: expected one of constant, cosine, got 'cosinus'; did you mean 'cosine'?",
        f"{path}:5 checkpoints.1: expected at most 1, got 1.5",
        "--set federated.alpha: expected more than 0, got 0",
        "expected a number for a federated training, got none; add rounds: 10",
    ):
        assert expected in text, (expected, text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": None}, ["spec epochs: expected a number for a single worker, got none; add epochs: 10"]),
        ({"rounds": 3}, ["spec rounds: expected none for a single worker, got 3; add federated, or remove it"]),
        ({"model": "lenett"}, ["spec model.settings.name: ", "spec model.name: "]),
        ({"model": {"name": "mlp", "settings": {"hiden": [3]}}}, ["spec model.settings.hiden: "]),
        ({"data": "digitz"}, ["spec data.name: "]),
        ({"test": "digits", "held_out": 0.1}, ["spec held_out: expected none where there are test data, got 0.1"]),
        (
            {"test": "photographs"},
            ["spec test.name: expected inputs of shape [1, 8, 8]", "spec test.name: expected the"],
        ),
        (
            {"model": "tests.training.tiny:normalized", "batch_size": 1},
            ["spec model: expected a model that trains on batches of 1, got Expected more than 1 value per channel"],
        ),
        (
            {
                "model": "tests.training.tiny:normalized",
                "epochs": None,
                "rounds": 10,
                "federated": {"clients": 900, "split": "dirichlet", "alpha": 0.01},
            },
            ["spec model: expected a model that trains on batches of 1, got Expected more than 1 value per channel"],
        ),
        ({"checkpoints": [0, 0.001]}, ["spec checkpoints: expected fractions of at least one of 46 steps"]),
        ({"model": {"name": "mlp", "mean": [0.1, 0.2]}}, ["spec model.mean: expected 1 or 1 values, got 2"]),
        (
            {"epochs": None, "rounds": 2, "federated": {"clients": 5000}, "checkpoints": [0, 1]},
            ["spec federated.clients: expected at most 1438 (training examples), got 5000"],
        ),
    ],
)
def test_a_mistake_is_told_where_it_is(changes: dict[str, Any], expected: list[str]) -> None:
    spec = {key: value for key, value in {**SINGLE, **changes}.items() if value is not None}
    found = problems(spec)
    for problem in found:
        assert any(problem.startswith(start) for start in expected), problem
        assert "; " in problem


def test_data_of_one_class_are_no_task() -> None:
    found = problems({**SINGLE, "data": {"name": "digits", "only": "not a digit"}})
    assert len(found) == 1
    assert "expected a class of 'digits'" in found[0]
