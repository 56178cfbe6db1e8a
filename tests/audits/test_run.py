"""The runner: resumes, tells, gives up where it should, and gives the same results wherever trials run."""

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

from gradleak.audits.plan import PlannedTrial
from gradleak.audits.progress import Progress
from gradleak.audits.run import AuditOutcome, run_audit
from gradleak.audits.settings import RunSettings
from gradleak.audits.store import PackedTrial, Store
from gradleak.audits.trial import Trial
from gradleak.errors import BadInput
from tests.audits.quick import build, outcomes, plan

ALONE = RunSettings(backend="inprocess")
ONE = RunSettings(backend="loky", workers=1)
TWO = RunSettings(backend="loky", workers=2)


def ids(store: Store) -> list[str]:
    """Of every line, duplicates included."""
    return [json.loads(line)["id"] for line in store.lines.read_text().splitlines()]


def test_every_trial_runs_once_and_is_told(tmp_path: Path) -> None:
    planned, store = plan(count=8, networks=2), Store.open(tmp_path)
    told: list[Progress] = []
    outcome = run_audit(planned, store, ALONE, command="do it", notify=told.append, build=build)
    assert outcome == AuditOutcome(planned=8, finished=8, errors=0, missing=0)
    assert outcome.complete
    assert ids(store) == [trial.id for trial in planned]
    assert [progress.left for progress in told] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert told[-1].left_seconds == 0
    assert {record.environment["command"] for record in store.records()} == {"do it"}
    assert all(record.environment[key] for record in store.records() for key in ("torch", "device", "dtype", "threads"))


def test_a_second_run_has_nothing_to_do_and_a_longer_plan_adds_only_what_is_new(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    run_audit(plan(count=3), store, ALONE, build=build)
    before = store.lines.read_bytes()
    assert run_audit(plan(count=3), store, ALONE, build=_never).complete
    assert store.lines.read_bytes() == before
    outcome = run_audit(plan(count=5), store, ALONE, build=build)
    assert outcome.planned == outcome.finished == 5
    assert store.lines.read_bytes().startswith(before)
    assert len(ids(store)) == 5


def _never(spec: dict[str, object]) -> Trial:
    raise AssertionError("nothing was to run")


def test_failed_trials_are_kept_with_their_traceback_and_retried_on_request(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    planned = plan(["linear_layer", "crash", "unknown"])
    outcome = run_audit(planned, store, ALONE, build=build)
    assert (outcome.finished, outcome.errors, outcome.missing, outcome.stopped) == (1, 2, 0, "")
    assert not outcome.complete
    crashed, unknown = (store.find(trial.id) for trial in planned[1:])
    assert crashed is not None
    assert "ZeroDivisionError: no luck" in crashed.traceback
    assert unknown is not None
    assert "LookupError: no such attack" in unknown.traceback
    assert unknown.threat == crashed.threat
    assert unknown.batch_size == 1
    assert unknown.numbers("psnr")[0] != unknown.numbers("psnr")[0]
    run_audit(planned, store, ALONE, build=build)
    assert len(ids(store)) == 3
    run_audit(planned, store, ALONE, build=build, retry_errors=True)
    assert len(ids(store)) == 5
    assert len(store.records()) == 3


def test_the_error_budget_ends_a_hopeless_run(tmp_path: Path) -> None:
    settings = RunSettings(backend="inprocess", errors=3)
    outcome = run_audit(
        plan("crash", count=50), Store.open(tmp_path), settings, build=build, command="gradleak audit x"
    )
    assert 3 <= outcome.errors <= 5
    assert outcome.missing == 50 - outcome.errors
    assert "trials failed, and run.errors allows no more" in outcome.stopped
    assert "run it again: gradleak audit x" in outcome.stopped


def test_a_spec_that_does_not_describe_what_was_built_is_an_error(tmp_path: Path) -> None:
    (other,) = plan(count=1)
    store = Store.open(tmp_path)
    run_audit([PlannedTrial("0" * 16, other.spec)], store, ALONE, build=build)
    assert "does not describe what was built" in store.records()[0].message


@pytest.mark.slow
def test_worker_processes_give_the_results_of_one_process(tmp_path: Path) -> None:
    planned = plan(count=12, networks=3)
    one, other = Store.open(tmp_path / "one"), Store.open(tmp_path / "two")
    run_audit(planned, one, ALONE, build=build)
    assert run_audit(planned, other, TWO, build=build).complete
    assert outcomes(one) == outcomes(other)
    assert not (tmp_path / "two" / ".spool").exists()


@pytest.mark.slow
def test_a_trial_that_kills_its_worker_is_given_up_and_the_others_have_results(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    marker = tmp_path / "died"
    planned = plan(["linear_layer", "die", "linear_layer", f"die once {marker}", "linear_layer"])
    notes: list[str] = []
    outcome = run_audit(planned, store, ONE, build=build, notify=lambda progress: notes.append(progress.note))
    assert (outcome.finished, outcome.errors, outcome.missing, outcome.stopped) == (4, 1, 0, "")
    failed = store.find(planned[1].id)
    assert failed is not None
    assert failed.status == "error"
    assert "its worker died 3 times" in failed.message
    assert any("A worker died" in note for note in notes)
    assert marker.exists()
    assert len(ids(store)) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_cleanly_and_says_how_to_resume(tmp_path: Path, number: signal.Signals) -> None:
    store, planned = Store.open(tmp_path), plan(["linear_layer", "sleep", "sleep", "sleep", "sleep"])
    handler = signal.getsignal(number)

    def interrupt(progress: Progress) -> None:
        if progress.left == 4:
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()

    outcome = run_audit(planned, store, ALONE, build=build, notify=interrupt, command="gradleak audit x --out y")
    assert outcome.interrupted
    assert outcome.missing > 0
    assert outcome.stopped.endswith("to go on, run it again: gradleak audit x --out y")
    assert signal.getsignal(number) is handler
    assert store.contents().warnings == ()
    assert run_audit(planned, store, ALONE, build=build).complete
    assert sorted(ids(store)) == sorted(trial.id for trial in planned)


@pytest.mark.slow
def test_an_interrupt_ends_the_workers(tmp_path: Path) -> None:
    began = time.perf_counter()
    planned = plan("sleep", count=60)

    def interrupt(progress: Progress) -> None:
        if progress.left == 58:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = run_audit(planned, Store.open(tmp_path), TWO, build=build, notify=interrupt)
    assert outcome.interrupted
    assert 1 <= outcome.finished < 20
    assert time.perf_counter() - began < 25


def test_two_runs_cannot_write_the_same_folder(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with (
        store.exclusive(),
        pytest.raises(BadInput, match=rf"in use by process {os.getpid()} on .* since .*; wait for it, end it, or"),
    ):
        run_audit(plan(count=1), store, ALONE, build=build)
    assert run_audit(plan(count=1), store, ALONE, build=build).complete


def test_a_disk_that_fills_up_ends_the_run_with_what_was_finished(tmp_path: Path) -> None:
    store, planned = Store.open(tmp_path), plan("linear_layer", count=4)
    append_all = Store.append_all

    def full(own: Store, trials: Sequence[PackedTrial]) -> None:
        append_all(own, trials[:1])
        raise BadInput(["trials.jsonl: no space left on device; free space or choose another"])

    with mock.patch.object(Store, "append_all", full):
        outcome = run_audit(planned, store, ALONE, build=build)
    assert "nothing more can be stored (trials.jsonl: no space left on device" in outcome.stopped
    assert (outcome.finished, outcome.missing) == (1, 3)
    assert run_audit(planned, store, ALONE, build=build).complete
    assert len(ids(store)) == 4


def test_a_torn_line_is_told_and_its_trial_runs_again(tmp_path: Path) -> None:
    store, planned = Store.open(tmp_path), plan(count=3)
    run_audit(planned, store, ALONE, build=build)
    whole = outcomes(store)
    store.lines.write_bytes(store.lines.read_bytes()[:-20])
    (tmp_path / "images" / f".{planned[0].id}.safetensors.999999999.part").write_bytes(b"half")
    notes: list[str] = []
    run_audit(planned, store, ALONE, build=build, notify=lambda progress: notes.append(progress.note))
    assert "cut off" in notes[0]
    assert outcomes(store) == whole
    assert not list(tmp_path.rglob("*.part"))


def test_an_address_for_a_backend_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"run\.address: expected none for loky"):
        run_audit(plan(count=1), Store.open(tmp_path), RunSettings(backend="loky", address="tcp://x:1"), build=build)
