"""dask, ray and Slurm's stand-in give the records of one process, also when a worker is killed during the run."""

import os
import sys
from pathlib import Path

import pytest

from gradleak.audits.backends import open_pool
from gradleak.audits.run import run_audit
from gradleak.audits.settings import BackendName, RunSettings
from gradleak.audits.store import Store
from gradleak.errors import BadInput
from tests.audits.quick import build, outcomes, plan

ROOT = Path(__file__).parents[2]
PACKAGES: dict[BackendName, str] = {"dask": "distributed", "ray": "ray", "slurm": "submitit"}


def settings(backend: BackendName) -> RunSettings:
    return RunSettings(backend=backend, workers=2, address="local" if backend == "slurm" else None)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")  # of packages that are not ours, while they start and stop servers
@pytest.mark.parametrize("backend", PACKAGES)
def test_the_records_are_those_of_one_process_although_a_worker_is_killed(
    tmp_path: Path, backend: BackendName, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGES[backend])
    # The workers are new interpreters that have to find this package and these tests.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    marker = tmp_path / "died"
    planned = plan([*["linear_layer"] * 8, f"die once {marker}", *["linear_layer"] * 3])
    one, other = Store.open(tmp_path / "one"), Store.open(tmp_path / "other")
    marker.touch()
    run_audit(planned, one, RunSettings(backend="inprocess"), build=build)
    marker.unlink()
    notes: list[str] = []
    outcome = run_audit(
        planned, other, settings(backend), build=build, notify=lambda progress: notes.append(progress.note)
    )
    assert outcome.complete
    assert marker.exists()
    assert any("A worker died" in note for note in notes)
    assert outcomes(one) == outcomes(other)
    assert len(other.lines.read_bytes().splitlines()) == len(planned)


@pytest.mark.parametrize("backend", PACKAGES)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, backend: BackendName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[backend], None)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(BadInput, match=rf"which is not installed; run: pip install 'gradleak\[{backend}\]'"):
        open_pool(RunSettings(backend=backend), tmp_path)


def test_slurm_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="expected the command sbatch of Slurm, got none on this machine; use loky"):
        open_pool(RunSettings(backend="slurm"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "address"), [("dask", "tcp://127.0.0.1:1"), ("ray", "127.0.0.1:1")])
@pytest.mark.filterwarnings("default")  # as above
def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, backend: BackendName, address: str) -> None:
    pytest.importorskip(PACKAGES[backend])
    with pytest.raises(BadInput, match=rf"run\.address: expected a running {backend}"):
        open_pool(RunSettings(backend=backend, address=address), tmp_path)
