"""Audits of trained models: what checkpoints say is in the spec, the records and the report."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import gradleak as gl
from gradleak.audits.reading import read_spec
from gradleak.audits.report import write_report
from gradleak.audits.spec import AuditSpec
from gradleak.audits.store import Store
from gradleak.training import read_checkpoint
from tests.cli.running import run
from tests.training.tiny import SINGLE

TRAINING = {**SINGLE, "model": {"name": "mlp", "settings": {"hidden": [16]}, "mean": 0.3, "std": 0.35}}
AUDIT: dict[str, Any] = {
    "trials": 2,
    "data": "digits",
    "attack": {"name": "linear_layer"},
    "run": {"backend": "inprocess"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    assert gl.train(TRAINING, out=out).complete
    return out


def problems(spec: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(gl.BadInput) as caught:
        read_spec(spec, overrides)
    return list(caught.value.problems)


def test_a_checkpoint_alone_says_what_the_model_is(trained: Path) -> None:
    weights = str(trained / "stage-0.1.safetensors")
    for model in (weights, {"weights": weights}, [{"weights": weights, "mean": 0.3}]):
        entry = read_spec({**AUDIT, "model": model}).model[0]
        assert (entry.name, entry.settings, entry.weights) == ("mlp", {"hidden": [16]}, weights)
        assert (entry.mean, entry.std, entry.stage) == ((0.3,), (0.35,), "10 % of training")


def test_the_effective_spec_of_a_checkpoint_reads_back(trained: Path, tmp_path: Path) -> None:
    spec = read_spec({**AUDIT, "model": str(trained / "stage-0.1.safetensors")})
    (tmp_path / "spec.yaml").write_text(spec.to_yaml())
    assert read_spec(tmp_path / "spec.yaml") == spec


def test_a_spec_that_contradicts_its_checkpoint_is_refused(trained: Path) -> None:
    model = {
        "weights": str(trained / "stage-0.1.safetensors"),
        "name": "lenet",
        "settings": {"hidden": [17]},
        "std": [0.36],
        "stage": "untrained",
    }
    found = problems({**AUDIT, "model": model})
    assert [problem.split(":")[0] for problem in found] == [
        "spec model.name",
        "spec model.settings",
        "spec model.std",
        "spec model.stage",
    ]
    assert "expected [0.35] (from the checkpoint), got [0.36]; leave it out" in found[2]


def test_weights_without_facts_need_a_name(trained: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file(load_file(trained / "stage-1.0.safetensors"), plain)
    found = problems({**AUDIT, "model": {"weights": str(plain)}})
    assert len(found) == 1
    assert "add name and settings" in found[0]
    named = {"name": "mlp", "settings": {"hidden": [16]}, "weights": str(plain), "stage": "trained elsewhere"}
    assert read_spec({**AUDIT, "model": named}).model[0].stage == "trained elsewhere"
    missing = problems({**AUDIT, "model": {"weights": str(tmp_path / "none.safetensors")}})
    assert len(missing) == 1
    assert "got nothing there" in missing[0]


def test_data_of_another_shape_than_the_checkpoint_was_trained_on_are_refused(trained: Path) -> None:
    weights = str(trained / "stage-1.0.safetensors")
    found = problems({**AUDIT, "model": weights, "data": {"name": "digits", "size": 12}})
    assert len(found) == 1
    assert "expected data with inputs of shape [1, 8, 8]" in found[0]
    assert "got [1, 12, 12] of 'digits'; add size: 8 to data" in found[0]


def test_a_checkpoint_that_does_not_fit_its_model_names_its_tensors(trained: Path, tmp_path: Path) -> None:
    facts = read_checkpoint(trained / "stage-1.0.safetensors").model_dump(mode="json")
    facts["model"]["settings"] = {"hidden": [17, 9]}
    path = tmp_path / "other.safetensors"
    save_file(load_file(trained / "stage-1.0.safetensors"), path, metadata={"gradleak": json.dumps(facts)})
    found = "\n".join(problems({**AUDIT, "model": str(path)}))
    assert "expected shape [17, 64], got [16, 64]" in found
    assert "expected a tensor 'linear2.weight' of shape [9, 17], got none" in found


def test_stages_make_a_curve_with_accuracies_in_records_and_report(trained: Path, tmp_path: Path) -> None:
    models = [{"weights": str(path)} for path in sorted(trained.glob("stage-*"))]
    outcome = gl.audit({**AUDIT, "model": models}, out=tmp_path)
    assert outcome.complete
    contents = Store(tmp_path).contents()
    facts = read_checkpoint(trained / "stage-1.0.safetensors").facts()
    last = [record.spec for record in contents.records if record.spec["stage"] == "100 % of training"]
    assert len(last) == 2
    assert all(spec["model"]["trained"] == facts for spec in last)
    assert facts["data"] == "digits"
    page = write_report(tmp_path).read_text()
    assert "Leakage over training stage" in page
    accuracy = f"{100 * facts['test_accuracy']:.1f}\u202f%"
    assert page.count(f"(test {accuracy})") == 1  # the setting of its table
    assert f"(test accuracy {accuracy})" in page  # the axis of the curve
    assert page.count("trained on digits") == 3


def test_what_a_foreign_checkpoint_says_is_text_and_nothing_else(trained: Path, tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>$\\frac{"
    models: list[dict[str, Any]] = []
    for number in range(2):
        found = read_checkpoint(trained / "stage-1.0.safetensors").model_dump(mode="json")
        found["stage"] = f"{attack} {number}"
        found["data"]["name"] = attack
        path = tmp_path / f"{number}.safetensors"
        save_file(load_file(trained / "stage-1.0.safetensors"), path, metadata={"gradleak": json.dumps(found)})
        models.append({"weights": str(path)})
    assert gl.audit({**AUDIT, "model": models}, out=tmp_path / "out").complete
    page = write_report(tmp_path / "out").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


# ---- models that are trained first -------------------------------------------------------------------------------


@pytest.fixture
def training(tmp_path: Path) -> Path:
    path = tmp_path / "training.yaml"
    path.write_text(json.dumps(TRAINING))
    return path


def test_one_command_trains_first_and_only_once(training: Path, tmp_path: Path) -> None:
    spec = tmp_path / "audit.yaml"
    spec.write_text(json.dumps({**AUDIT, "model": {"trained": {"spec": str(training), "at": [0, 1]}}}))
    out = tmp_path / "out"
    plan = run("audit", spec, "--out", out, "--dry-run")
    assert "Training comes first: tiny" in plan.out
    assert "2 cells x 2 captured batches = 4 trials" in plan.out
    assert not out.exists()
    done = run("audit", spec, "--out", out)
    assert done.code == 0, done.err
    assert "Training comes first: tiny" in done.err
    folders = list((out / "models").iterdir())
    assert len(folders) == 1
    written = {path.name: path.stat().st_mtime_ns for path in folders[0].iterdir()}
    assert {"stage-0.0.safetensors", "stage-1.0.safetensors"} <= set(written)
    records = Store(out).records()
    assert {record.spec["stage"] for record in records} == {"0 % of training", "100 % of training"}
    again = run("audit", spec, "--out", out)
    assert again.code == 0
    assert "Training" not in again.err
    assert "4 of 4 trials have a result" in again.out
    assert {path.name: path.stat().st_mtime_ns for path in folders[0].iterdir()} == written
    assert "Training tiny is done" in run("audit", spec, "--out", out, "--dry-run").out
    # The folder's own spec holds the checkpoints by name, and plans the very same trials.
    assert {record.id for record in records} == {trial for trial in _ids(out / "spec.yaml")}


def _ids(spec: Path) -> list[str]:
    return json.loads(run("audit", spec, "--dry-run", "--json").out)["ids"]


def test_an_audit_in_python_trains_first_too(training: Path, tmp_path: Path) -> None:
    model = {"trained": {"spec": str(training), "at": 1, "overrides": ["seed=5"]}}
    assert gl.audit({**AUDIT, "model": model}, out=tmp_path / "out").complete
    folder = next((tmp_path / "out" / "models").iterdir())
    assert read_checkpoint(folder / "stage-1.0.safetensors").spec["seed"] == 5


def test_a_training_that_diverges_ends_the_audit_before_it_begins(training: Path, tmp_path: Path) -> None:
    model = {"trained": {"spec": str(training), "overrides": ["optimizer.lr=1e12"]}}
    outcome = gl.audit({**AUDIT, "model": model}, out=tmp_path / "python")
    assert (outcome.complete, outcome.finished, outcome.missing) == (False, 0, 2)
    assert outcome.stopped.startswith("Diverged at step")
    spec = tmp_path / "audit.yaml"
    spec.write_text(json.dumps({**AUDIT, "model": model}))
    done = run("audit", spec, "--out", tmp_path / "out")
    assert done.code == 3
    assert "Diverged at step" in done.err


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"trained": {"spec": "digitz"}}, "spec model.trained.spec: digitz: expected a YAML file or one of"),
        ({"trained": {"at": 1}}, "spec model.trained.spec: expected a value, got none; add it"),
        ({"trained": {"spec": "digits", "et": 1}}, "spec model.trained.et: expected one of spec, at, overrides"),
        ({"trained": {"spec": "digits", "at": 0.3}}, "spec model.trained.at: expected one of the checkpoints 0, 0.01,"),
        ({"trained": {"spec": "digits"}, "name": "mlp"}, "spec model.name: expected trained alone, got name too"),
        (
            {"trained": {"spec": "digits", "overrides": "epoch=3"}},
            "spec model.trained.spec: --set epoch: expected one of name, model",
        ),
    ],
)
def test_mistakes_about_trainings(model: dict[str, Any], expected: str) -> None:
    found = problems({**AUDIT, "model": model})
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_the_shipped_stages_are_those_of_their_training() -> None:
    spec = read_spec("training-stages")
    assert isinstance(spec, AuditSpec)
    assert [entry.stage for entry in spec.model] == [
        "0 % of training",
        "1 % of training",
        "10 % of training",
        "100 % of training",
    ]
