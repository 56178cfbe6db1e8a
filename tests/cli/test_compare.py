"""`gradleak compare` on folders."""

import json
from pathlib import Path

from gradleak.audits.store import Store
from tests.audits.examples import images, record
from tests.cli.running import run


def folder(path: Path, offset: float) -> Path:
    store = Store.open(path)
    for k in range(4):
        store.append(record([10.0 + offset + k], seed=k, examples=(k,)), images())
    return path


def test_the_change_is_told(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "a", 0.0), folder(tmp_path / "b", 25.0)
    told = run("compare", str(one), str(two))
    assert told.code == 0
    assert "no leak found -> leak" in told.out
    assert "+25.0" in told.out
    plain = json.loads(run("compare", str(one), str(two), "--json").out)
    assert plain["verdicts"] == ["none", "leak"]
    assert plain["changes"][0]["direction"] == "more"
