"""Whole trainings: same bits after every interruption, and clear ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import gradleak as gl
from gradleak.training import TrainProgress, read_checkpoint
from gradleak.training.places import RESUME
from tests.training.tiny import FEDERATED, SINGLE, files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[SINGLE, FEDERATED], ids=["single", "federated"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("undisturbed")
    outcome = gl.train(request.param, out=out)
    assert outcome.status == "finished"
    return request.param, out


def stop_at(unit: int) -> Callable[[TrainProgress], None]:
    def notify(progress: TrainProgress) -> None:
        if progress.unit == unit:
            raise KeyboardInterrupt

    return notify


def test_a_training_that_is_interrupted_again_and_again_ends_with_the_same_bits(
    undisturbed: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    spec, reference = undisturbed
    for unit in (0, 1, 3):
        outcome = gl.train(spec, out=tmp_path, notify=stop_at(unit))
        assert outcome.status == "interrupted"
        assert (tmp_path / RESUME).exists()
    notes: list[str] = []
    outcome = gl.train(spec, out=tmp_path, notify=lambda progress: notes.append(progress.note))
    assert outcome.complete
    assert notes[0].startswith("Going on after")
    assert " 3 of" in notes[0]
    assert files(tmp_path) == files(reference)
    assert not (tmp_path / RESUME).exists()


def numpy_state() -> list[int]:
    return np.random.get_state(legacy=False)["state"]["key"].tolist()  # noqa: NPY002  # it is looked at, not used


def test_training_reads_and_writes_no_global_random_state(
    undisturbed: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    spec, reference = undisturbed
    torch.default_generator.manual_seed(99)
    before = torch.get_rng_state(), numpy_state()
    threads = torch.get_num_threads()
    gl.train(spec, out=tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert numpy_state() == before[1]
    assert torch.get_num_threads() == threads
    assert files(tmp_path) == files(reference)


def test_a_finished_training_is_not_run_again(undisturbed: tuple[dict[str, Any], Path]) -> None:
    spec, reference = undisturbed
    before = files(reference)
    told: list[TrainProgress] = []
    outcome = gl.train(spec, out=reference, notify=told.append)
    assert outcome.complete
    assert outcome.message == "Everything was trained before."
    assert told == []
    assert [path.name for path in outcome.checkpoints] == [name for name in before if name.startswith("stage")]
    assert outcome.row["test_accuracy"] > 0.3
    assert files(reference) == before


def test_history_and_checkpoints_agree(undisturbed: tuple[dict[str, Any], Path]) -> None:
    _, reference = undisturbed
    rows = [json.loads(line) for line in (reference / "history.jsonl").read_text().splitlines()]
    units = [row["unit"] for row in rows]
    assert units == sorted(set(units))
    assert units[0] == 0
    for path in reference.glob("stage-*"):
        found = read_checkpoint(path)
        row = rows[units.index(found.units)]
        assert (found.train.loss, found.test.accuracy) == (row["train_loss"], row["test_accuracy"])
        assert found.fraction == pytest.approx(found.units / found.of_units, abs=0.5 / found.of_units)
        counters = [tensor for name, tensor in load_file(path).items() if name.endswith("num_batches_tracked")]
        assert all(tensor.dtype == torch.int64 for tensor in counters)
        if found.unit == "round" and found.units:
            assert len(counters) == 1
            assert int(counters[0]) > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT and SIGKILL")
def test_a_training_that_is_ended_by_ctrl_c_and_then_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    path, out = tmp_path / "spec.yaml", tmp_path / "out"
    path.write_text(json.dumps({**SINGLE, "epochs": 60, "save_every": 0.02}))
    stopped = interrupted_run(path, out, signal.SIGINT, lines=3)
    assert stopped.returncode == 3
    assert f"Go on with: gradleak train {path} --out {out} --json" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (out / RESUME).exists()
    assert interrupted_run(path, out, signal.SIGKILL, lines=20).returncode == -signal.SIGKILL
    assert not (out / "stage-1.0.safetensors").exists()
    assert gl.train(path, out=out).complete
    assert gl.train(path, out=tmp_path / "undisturbed").complete
    assert files(out) == files(tmp_path / "undisturbed")
    assert not list(out.glob(".*.part"))


def interrupted_run(spec: Path, out: Path, number: signal.Signals, lines: int) -> "subprocess.CompletedProcess[str]":
    """Train in a process of its own, which gets a signal when its history has so many lines."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gradleak", "train", str(spec), "--out", str(out), "--json"]
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    history = out / "history.jsonl"
    end = time.monotonic() + 60
    while not history.exists() or len(history.read_bytes().splitlines()) < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(number)
    printed, told = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, printed, told)


def test_a_torn_line_of_the_history_is_written_again(tmp_path: Path) -> None:
    gl.train(SINGLE, out=tmp_path / "whole")
    gl.train(SINGLE, out=tmp_path / "torn", notify=stop_at(24))
    history = tmp_path / "torn" / "history.jsonl"
    history.write_bytes(history.read_bytes()[:-20])
    assert gl.train(SINGLE, out=tmp_path / "torn").complete
    own, whole = ((tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("torn", "whole"))
    assert set(own) <= set(whole)
    assert own[-1] == whole[-1]


def test_a_folder_goes_on_with_its_own_spec_and_data_only(tmp_path: Path) -> None:
    changed = {**SINGLE, "seed": 4, "optimizer": {**SINGLE["optimizer"], "lr": 0.2}, "epochs": 3}
    gl.train(SINGLE, out=tmp_path, notify=stop_at(5))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(gl.BadInput) as caught:
        gl.train(changed, out=tmp_path)
    assert len(caught.value.problems) == 3
    assert any("optimizer.lr = 0.2 in place of 0.1" in problem for problem in caught.value.problems)
    # The lock names its last holder, which tells nothing about the training.
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items() if name != ".lock")
    assert gl.train({**SINGLE, "save_every": 3.0, "name": "other"}, out=tmp_path).complete


def test_other_data_under_the_same_name_are_refused(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).random((40, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "own.npz", x=inputs, y=np.arange(40) % 4)
    spec = {**SINGLE, "data": str(tmp_path / "own.npz"), "batch_size": 8, "epochs": 5}
    gl.train(spec, out=tmp_path / "out", notify=stop_at(5))
    np.savez(tmp_path / "own.npz", x=1 - inputs, y=np.arange(40) % 4)
    from gradleak.training import preparing

    preparing.forget()  # as another process would
    with pytest.raises(gl.BadInput, match="expected the training data of"):
        gl.train(spec, out=tmp_path / "out")


def test_a_training_that_diverges_says_when_and_keeps_what_was_finished(tmp_path: Path) -> None:
    spec = {**SINGLE, "optimizer": {"lr": 1e12}, "checkpoints": [0, 0.02, 1]}
    outcome = gl.train(spec, out=tmp_path)
    assert outcome.status == "diverged"
    assert outcome.message.startswith("Diverged at step ")
    assert "smaller optimizer.lr" in outcome.message
    assert not outcome.complete
    assert [path.name for path in outcome.checkpoints] == ["stage-0.0.safetensors", "stage-0.02.safetensors"]
    for path in outcome.checkpoints:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(path).values())
    assert gl.train(spec, out=tmp_path).message == outcome.message


def test_training_ends_at_the_last_checkpoint(tmp_path: Path) -> None:
    outcome = gl.train({**SINGLE, "checkpoints": [0, 0.25]}, out=tmp_path / "part")
    whole = gl.train({**SINGLE, "checkpoints": [0.25, 1]}, out=tmp_path / "whole")
    assert outcome.row["unit"] < whole.row["unit"]
    one, other = (load_file(found.folder / "stage-0.25.safetensors") for found in (outcome, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_more_checkpoints_in_a_finished_folder_are_trained_from_the_start(tmp_path: Path) -> None:
    gl.train(SINGLE, out=tmp_path)
    before = files(tmp_path)
    assert gl.train({**SINGLE, "checkpoints": [0, 0.1, 0.5, 1]}, out=tmp_path).complete
    assert (tmp_path / "stage-0.5.safetensors").exists()
    assert load_file(tmp_path / "stage-1.0.safetensors").keys()
    assert files(tmp_path)["stage-0.1.safetensors"] == before["stage-0.1.safetensors"]


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    def second(progress: TrainProgress) -> None:
        if progress.unit == 2:
            gl.train(SINGLE, out=tmp_path)

    with pytest.raises(gl.BadInput, match="in use by process"):
        gl.train(SINGLE, out=tmp_path, notify=second)


def test_shipped_digits_reach_the_promised_accuracy(tmp_path: Path) -> None:
    outcome = gl.train("digits", out=tmp_path, overrides=["epochs=3"])
    assert outcome.row["test_accuracy"] > 0.9


def test_a_model_trains_in_its_own_precision(tmp_path: Path) -> None:
    outcome = gl.train({**SINGLE, "model": "tests.training.tiny:double"}, out=tmp_path)
    assert outcome.row["test_accuracy"] > 0.8
    assert {tensor.dtype for tensor in load_file(outcome.checkpoints[-1]).values()} == {torch.float64}


def test_a_model_whose_code_changed_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**SINGLE, "model": "tests.training.tiny:changing"}
    gl.train(spec, out=tmp_path, notify=stop_at(5))
    monkeypatch.setattr("tests.training.tiny.WIDTH", [13])
    with pytest.raises(gl.BadInput, match=r"expected the state of this model, got: .*size mismatch"):
        gl.train(spec, out=tmp_path)
