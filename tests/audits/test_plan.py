"""The grid: how many trials, which examples, and what changes an id."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gradleak.audits.plan import PlannedTrial, plan
from gradleak.audits.reading import read_spec
from gradleak.audits.records import record_id
from gradleak.zoo.models import mlp

SMALL: dict[str, Any] = {
    "trials": 3,
    "model": {"name": "mlp", "settings": {"hidden": [4]}},
    "data": "tests.audits.factories:noise",
    "attack": {"name": "linear_layer"},
}
GRID: dict[str, Any] = {
    **SMALL,
    "model": ["lenet", "tests.audits.factories:net"],
    "batch_size": [1, 2],
    "defense": ["none", {"name": "GaussianNoise", "std": 0.1}],
    "attack": ["linear_layer", {"name": "dlg", "outer_steps": 2}],
    "threat": [{}, {"labels_known": True}],
}


def planned(spec: Mapping[str, Any], *overrides: str) -> tuple[PlannedTrial, ...]:
    return plan(read_spec(spec, overrides))


def ids(spec: Mapping[str, Any], *overrides: str) -> list[str]:
    return [trial.id for trial in planned(spec, *overrides)]


def test_the_grid_has_one_trial_for_each_cell_and_batch() -> None:
    trials = planned(GRID)
    assert len(trials) == len({trial.id for trial in trials}) == 2 * 2 * 2 * 2 * 2 * 3
    assert all(trial.id == record_id(trial.spec) for trial in trials)
    # Batch by batch, so that a run that is cut short has looked at every cell.
    assert [trial.spec["batch"] for trial in trials] == sorted(trial.spec["batch"] for trial in trials)


def test_a_batch_is_the_same_for_everything_that_is_compared_on_it() -> None:
    batches: dict[tuple[int, int], set[tuple[Any, ...]]] = {}
    for trial in planned(GRID):
        spec = trial.spec
        drawn = (tuple(spec["examples"]), tuple(spec["targets"]), spec["seed"], spec["data"]["digest"])
        batches.setdefault((len(spec["examples"]), spec["batch"]), set()).add(drawn)
    assert len(batches) == 6
    assert all(len(drawn) == 1 for drawn in batches.values())


def test_a_spec_holds_what_the_store_and_the_workers_need() -> None:
    noise = {"name": "GaussianNoise", "std": 0.5}
    (trial,) = planned(
        {**SMALL, "model": "lenet-dlg", "data": {"name": "photographs", "size": 8}}, "trials=1", f"defense={noise}"
    )
    spec = trial.spec
    assert spec["model"]["name"] == "lenet-dlg"
    assert spec["space"] == {
        "name": "ImageSpace",
        "shape": [3, 8, 8],
        "mean": [0.0],
        "std": [1.0],
        "bounds": [0.0, 1.0],
    }
    assert spec["num_classes"] == 10
    assert spec["data"]["name"] == "photographs"
    assert spec["data"]["count"] == 200
    assert spec["defenses"] == [noise]
    assert spec["client"]["name"] == "Gradient"
    assert spec["attack"] == {"name": "linear_layer"}
    assert len(spec["model"]["digest"]) == len(spec["data"]["digest"]) == 16
    assert {"batch", "stage", "gradleak", "threat", "seed", "examples", "targets"} <= set(spec)


@pytest.mark.parametrize(
    "override",
    [
        "run.workers=7",
        "run.backend=inprocess",
        "run.threads=2",
        "run.errors=1",
        "name=other",
        "threshold=[5]",
        "limit={success_rate_at: 20, below: 0.5}",
    ],
)
def test_how_it_is_run_and_judged_changes_no_id(override: str) -> None:
    assert ids(SMALL, override) == ids(SMALL)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "model.settings.hidden=[5]",
        "model.mean=0.5",
        "model.stage=trained",
        "model.redraw=false",
        "model=tests.audits.factories:net",
        "data.classes=4",
        "data.size=5",
        "data.settings.count=11",
        "batch_size=2",
        "client.mode=train",
        "defense={name: GaussianNoise, std: 0.1}",
        "attack=dlg",
        "attack.max_seconds=3",
        "threat.labels_known=true",
    ],
)
def test_what_changes_the_outcome_changes_every_id(override: str) -> None:
    assert not set(ids(SMALL, override)) & set(ids(SMALL))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=20)
def test_more_trials_only_add_some(fewer: int, more: int, seed: int) -> None:
    fewer, more = min(fewer, more), max(fewer, more)
    assert ids(SMALL, f"trials={more}", f"seed={seed}")[:fewer] == ids(SMALL, f"trials={fewer}", f"seed={seed}")


def test_the_order_and_the_rest_of_the_grid_change_no_id() -> None:
    both = set(ids({**SMALL, "attack": ["dlg", "idlg"], "batch_size": [1, 2]}))
    assert both == set(ids({**SMALL, "attack": ["idlg", "dlg"], "batch_size": [2, 1]}))
    assert set(ids({**SMALL, "attack": "idlg"})) < both


def test_other_weights_under_the_same_path_are_other_trials(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    model = {"name": "mlp", "settings": {"hidden": [4]}, "weights": str(weights)}
    found: list[list[str]] = []
    for seed in (0, 1, 0):
        save_file(mlp(16, (4,), 3, seed=seed).state_dict(), weights)
        from gradleak.audits import building

        building.forget()
        found.append(ids({**SMALL, "model": model}))
    assert found[0] == found[2]
    assert not set(found[0]) & set(found[1])


def test_each_batch_has_its_own_network_unless_told_otherwise() -> None:
    def seeds(*overrides: str) -> list[int]:
        return [trial.spec["model"]["seed"] for trial in planned(SMALL, *overrides)]

    assert len(set(seeds())) == 3
    assert len(set(seeds("model.redraw=false"))) == 1
    assert len(set(seeds("model=tests.audits.factories:net"))) == 1
    assert len(set(seeds("model={name: 'tests.audits.factories:drawn', redraw: true}"))) == 3


def test_other_processes_plan_the_same() -> None:
    script = f"from tests.audits.test_plan import *; print(*ids({GRID!r}))"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.split() == ids(GRID)


@pytest.mark.slow
def test_ten_thousand_trials_are_planned_in_seconds() -> None:
    spec = read_spec({**SMALL, "model": "lenet", "attack": ["dlg", "idlg"], "trials": 5000})
    began = time.perf_counter()
    trials = plan(spec)
    assert len({trial.id for trial in trials}) == 10_000
    assert time.perf_counter() - began < 30  # 4 s on an idle core


def test_batch_sizes_go_with_the_clients_where_the_spec_says_so() -> None:
    clients = [{"name": "Aggregate", "clients": ["Gradient"], "count": count} for count in (1, 2, 4)]
    trials = planned({**SMALL, "client": [*clients, "Gradient"], "batch_size": {"per_client": 2}})
    found = {(trial.spec["client"].get("count", 0), len(trial.spec["examples"])) for trial in trials}
    assert found == {(1, 2), (2, 4), (4, 8), (0, 2)}
    assert len(trials) == 4 * 3
    # Whatever else is in the grid: the trials are those of a plain batch size.
    alone = ids({**SMALL, "client": clients[1], "batch_size": 4})
    assert set(alone) < {trial.id for trial in trials}
