"""Settings of clients, nested ones too, from a spec through plan and store to curves."""

from pathlib import Path

import pytest

from gradleak.audits.records import settings_text
from gradleak.audits.report.axes import axes_of
from gradleak.audits.store import Store
from gradleak.audits.summarizing import summarize
from tests.cli.running import run

SPEC = """\
# Which settings of a client matter?
trials: 1
model: tests.audits.factories:net
data: tests.audits.factories:noise
batch_size: 4
client:
  - Gradient
  - {name: LocalSGD, lr: 0.1}
  - {name: LocalSGD, lr: 0.1, epochs: 2}
  - {name: LocalSGD, lr: 0.1, epochs: 2, batch_size: 1}
  - {name: LocalSGD, lr: 0.1, epochs: 2, batch_size: 2}
  - {name: Aggregate, clients: [{name: LocalSGD, lr: 0.1}], count: 4}
  - {name: Aggregate, clients: [{name: LocalSGD, lr: 0.1, epochs: 2}], count: 4}
  - {name: Aggregate, clients: [{name: LocalSGD, lr: 0.1, epochs: 2}], count: 2}
  - {name: Aggregate, clients: [Gradient, {name: Gradient, mode: train}]}
  - {name: DPSGD, clip: 0.1}
  - {name: DPSGD, clip: 0.1, noise_multiplier: 0.5}
attack: {name: dlg, outer_steps: 1, max_evaluations: 1}
run: {backend: inprocess}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("axes")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    done = run("audit", folder / "spec.yaml", "--out", folder / "out")
    assert done.code == 0, done.err
    return Store.open(folder / "out")


def test_every_client_is_planned_once_and_runs(store: Store) -> None:
    records = list(store.records())
    assert len({record.id for record in records}) == len(records) == 11
    assert {record.status for record in records} == {"budget"}


def test_numeric_settings_become_axes(store: Store) -> None:
    axes = {axis.path: axis for axis in axes_of(summarize(list(store.records())).groups)}
    found = {path: (axis.title, [line.places for line in axis.lines]) for path, axis in axes.items()}
    assert found == {
        "client.epochs": ("local epochs", [(1.0, 2.0)]),
        "client.batch_size": ("local batch size", [(1.0, 2.0)]),
        "client.clients.0.epochs": ("local epochs", [(1.0, 2.0)]),
        "client.count": ("clients in the aggregate", [(2.0, 4.0)]),
        "client.noise_multiplier": ("noise multiplier", [(0.0, 0.5)]),
    }


def test_nested_clients_read_well(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    done = run("audit", tmp_path / "spec.yaml", "--dry-run")
    assert done.code == 0
    assert "client (11)" in done.out
    words = " ".join(done.out.split())
    assert "Aggregate(clients=[LocalSGD(lr=0.1, epochs=2)], count=2)" in words
    nested = {"name": "Aggregate", "clients": [{"name": "Gradient", "sent": None}], "sizes": [1, 2]}
    assert settings_text(nested) == "Aggregate(clients=[Gradient()], sizes=[1, 2])"


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("{name: Aggregate, clients: [{name: LocalSGD}]}", "lr"),
        ("{name: Aggregate, clients: [{name: LocalSDG, lr: 0.1}]}", "LocalSGD"),
        ("{name: Aggregate, clients: [{name: LocalSGD, lr: 0.1, epoch: 2}]}", "epochs"),
        ("{name: Aggregate, clients: [{name: LocalSGD, lr: 0.1}], count: 5}", "at most 4 clients for 4 examples"),
        ("{name: LocalSGD, lr: 0.1, nesterov: true}", "nesterov"),
    ],
)
def test_mistakes_in_clients_are_named_before_anything_runs(tmp_path: Path, client: str, expected: str) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.replace("  - Gradient\n", f"  - {client}\n"), encoding="utf-8")
    done = run("audit", tmp_path / "spec.yaml", "--out", tmp_path / "out")
    assert done.code == 2
    assert any("client" in problem and expected in problem for problem in done.problems), done.err
    assert not (tmp_path / "out").exists()
