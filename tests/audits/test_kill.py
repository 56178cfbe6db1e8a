"""Kills, a full disk and a read-only one: nothing that was finished is lost, and nothing is there twice.

`benchmarks/kill.py` is the long version of the first test.
"""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from gradleak.audits.run import run_audit
from gradleak.audits.settings import RunSettings
from gradleak.audits.store import Store
from gradleak.errors import BadInput
from tests.audits.quick import build, outcomes, plan

ROOT = Path(__file__).parents[2]
ALONE = RunSettings(backend="inprocess")


@pytest.mark.slow
@pytest.mark.timeout(400)  # many processes import torch one after the other
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_an_audit_that_is_killed_and_started_again_ends_like_an_undisturbed_one() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "2", "--batches", "6", "--kills-only"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "killed and resumed: 24 trials as in the undisturbed run, none twice" in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A disk of 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(options, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_and_one_that_is_read_only(small_disk: Path, tmp_path: Path) -> None:
    planned = plan(count=40)
    reference = Store.open(tmp_path / "reference")
    run_audit(planned, reference, ALONE, build=build)
    store = Store.open(small_disk / "run")
    outcome = run_audit(planned, store, ALONE, build=build)
    assert "no space left on device; free space" in outcome.stopped
    assert 0 < outcome.finished < 40
    whole = outcomes(reference)
    kept = outcomes(store)
    assert len(kept) == outcome.finished
    assert kept.items() <= whole.items()
    assert store.contents().warnings == ()
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert run_audit(planned, store, ALONE, build=build).complete
    assert outcomes(store) == whole
    assert len(store.lines.read_bytes().splitlines()) == 40
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(BadInput, match="read-only"):
        run_audit(planned, store, ALONE, build=build)
    assert store.statuses() == reference.statuses()
    assert outcomes(store) == whole
