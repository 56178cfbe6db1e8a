"""`gradleak demo`, with a fraction of its steps."""

import json
import math
from pathlib import Path

import pytest
import torch

from gradleak.audits.demonstration import Demonstration
from gradleak.audits.store import Store
from gradleak.cli.demo import run_demo
from gradleak.errors import BadInput
from tests.cli.running import run

TINY = Demonstration(faces=2, photographs=1, face_outer_steps=2, photograph_outer_steps=1)


def test_the_demo_writes_everything_and_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(TINY, tmp_path, processes=1)
    out = capsys.readouterr().out
    records = Store.open(tmp_path).records()
    assert len(records) == 9
    assert {record.attack for record in records} == {"dlg", "idlg", "auto"}
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 9
    assert (tmp_path / "report.html").stat().st_size > 20_000
    for words in ("given: batch size, client, defense; withheld: labels", "(grey)", "(random other)", "report.html"):
        assert words in out
    assert all(len(line) <= 80 for line in out.splitlines() if "report.html" not in line)


def test_a_finished_demo_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(TINY, tmp_path, processes=1)
    lines = (tmp_path / "trials.jsonl").read_bytes()
    (tmp_path / "report.html").unlink()
    capsys.readouterr()
    run_demo(TINY, tmp_path, processes=1, as_json=True)
    captured = capsys.readouterr()
    assert "already holds this demo" in captured.err
    assert (tmp_path / "trials.jsonl").read_bytes() == lines
    assert (tmp_path / "report.html").exists()
    printed = json.loads(captured.out)
    assert printed["images"] == 3
    assert len(printed["trials"]) == 9


def test_an_interrupted_demo_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(TINY, tmp_path, processes=1)
    whole = Store.open(tmp_path).records()
    lines = (tmp_path / "trials.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "trials.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:50])
    capsys.readouterr()
    run_demo(TINY, tmp_path, processes=1)
    assert "Resuming: 5 trials" in capsys.readouterr().err
    again = Store.open(tmp_path).records()
    assert [record.id for record in again] == [record.id for record in whole]
    assert [record.numbers("psnr") for record in again] == [record.numbers("psnr") for record in whole]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    few = Demonstration(faces=1, photographs=0, face_outer_steps=2)
    for processes in (1, 2):
        run_demo(few, tmp_path / str(processes), processes=processes, as_json=True)
    alone, together = (Store.open(tmp_path / str(processes)) for processes in (1, 2))
    assert len(alone.records()) == 3
    for one in alone.records():
        other = together.find(one.id)
        assert other is not None
        assert one.scores == other.scores
        pictures, same = alone.images(one), together.images(other)
        assert pictures is not None
        assert same is not None
        assert torch.equal(pictures.snapshots, same.snapshots)


def test_images_are_drawn_by_the_seed_and_faces_are_faces() -> None:
    trials = Demonstration(seed=3).trials()
    drawn = [trial.examples[0] for trial in trials if trial.data["name"] == "faces"]
    assert drawn != [trial.examples[0] for trial in Demonstration(seed=4).trials() if trial.data["name"] == "faces"]
    assert max(drawn) < 100
    assert {trial.inputs.shape[1:] for trial in trials} == {(1, 25, 25), (3, 24, 24)}
    assert len({trial.id for trial in trials}) == len(trials)
    assert not any(trial.threat.labels_known for trial in trials)


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="expected a place that can be read and written"):
        run_demo(TINY, tmp_path / "file", processes=1)


def test_the_command_refuses_a_negative_seed(tmp_path: Path) -> None:
    done = run("demo", "--seed", -1, "--out", tmp_path / "out")
    assert done.code == 2
    assert not (tmp_path / "out").exists()


def test_scores_of_a_demo_beat_chance_where_the_update_is_reproduced(tmp_path: Path) -> None:
    run_demo(Demonstration(faces=1, photographs=0, face_outer_steps=15), tmp_path, processes=1)
    (idlg,) = [record for record in Store.open(tmp_path).records() if record.attack == "idlg"]
    best_baseline = max(max(map(float, columns["psnr"])) for columns in idlg.baselines.values())  # type: ignore[arg-type]
    assert idlg.status == "converged"
    assert idlg.numbers("psnr")[0] > best_baseline + 20
    assert not math.isnan(idlg.objective)
