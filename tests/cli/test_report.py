"""`gradleak report`."""

import json
from pathlib import Path

from gradleak.audits.store import Store
from tests.audits.examples import images, record
from tests.cli.running import run


def test_the_report_is_rebuilt_from_the_store(tmp_path: Path) -> None:
    Store.open(tmp_path).append(record([42.0]), images())
    done = run("report", tmp_path)
    assert done.code == 0
    assert done.out == f"{tmp_path / 'report.html'}: 1 trials\n"
    assert (tmp_path / "report.html").is_file()


def test_json(tmp_path: Path) -> None:
    Store.open(tmp_path).append(record([42.0]), images())
    printed = json.loads(run("report", tmp_path, "--json").out)
    assert printed == {
        "report": str(tmp_path / "report.html"),
        "verdict": "leak",
        "trials": 1,
        "statuses": {"converged": 1},
    }


def test_a_folder_without_trials_is_bad_input(tmp_path: Path) -> None:
    done = run("report", tmp_path / "nowhere")
    assert done.code == 2
    assert len(done.problems) == 1
    assert "expected a folder with trials.jsonl" in done.problems[0]


def test_the_trials_as_a_table(tmp_path: Path) -> None:
    Store.open(tmp_path).append(record([42.0, 10.0], examples=(3, 4)), images(2))
    done = run("report", tmp_path, "--export", tmp_path / "trials.csv")
    assert done.code == 0
    assert done.out.splitlines()[1] == f"{tmp_path / 'trials.csv'}: the same as a table"
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 3
    done = run("report", tmp_path, "--export", tmp_path / "trials.txt")
    assert done.code == 2
    assert "expected a file that ends in .csv or .parquet" in done.problems[0]
