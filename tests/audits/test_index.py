"""The index agrees with the lines, whatever happened to either, and exports hold what the records hold."""

import csv
import sqlite3
from pathlib import Path
from unittest import mock

import pytest

from gradleak.audits import lines
from gradleak.audits.index import NAME, opened
from gradleak.audits.store import Store
from gradleak.errors import BadInput
from tests.audits.examples import images, record


def filled(folder: Path, count: int = 3) -> Store:
    store = Store.open(folder)
    for position in range(count):
        store.append(record([20.0 + position, float("nan")], examples=(position, 9)), images(2))
    return store


def agrees(store: Store) -> bool:
    return store.statuses() == {kept.id: kept.status for kept in store.records()}


def test_the_index_knows_every_trial_and_finds_one_without_reading_the_others(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert agrees(store)
    wanted = store.records()[1]
    assert store.find(wanted.id) == wanted
    assert store.find("0" * 16) is None
    with opened(tmp_path, store.lines) as connection:
        rows = connection.execute("SELECT attack, data, psnr_highest, psnr_lowest FROM trials ORDER BY offset")
        assert rows.fetchall() == [("dlg", "faces", 20.0 + number, 20.0 + number) for number in range(3)]
    with mock.patch("gradleak.audits.index._parsed", side_effect=AssertionError("read again")):
        assert agrees(store)


def test_new_lines_are_added_and_a_later_line_of_an_id_counts(tmp_path: Path) -> None:
    store = filled(tmp_path)
    failed = store.records()[0].model_copy(update={"status": "error"})
    store.statuses()
    store.append(failed)
    store.append(record([40.0], examples=(8,)))
    assert agrees(store)
    assert len(store.statuses()) == 4
    assert store.statuses()[failed.id] == "error"


@pytest.mark.parametrize("content", [None, b"", b"no database at all, but long enough to look at" * 40, "cut"])
def test_a_deleted_or_damaged_index_is_made_anew(tmp_path: Path, content: bytes | str | None) -> None:
    store = filled(tmp_path)
    store.statuses()
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    assert agrees(store)
    assert path.exists()


def test_an_index_of_other_lines_is_made_anew(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.statuses()
    kept = store.lines.read_bytes().splitlines(keepends=True)
    store.lines.write_bytes(kept[0])
    assert len(store.statuses()) == 1
    store.lines.write_bytes(kept[1] + kept[2] + kept[0])
    assert agrees(store)
    assert store.find(store.records()[0].id) == store.records()[0]
    store.lines.unlink()
    assert store.statuses() == {}


def test_an_index_that_cannot_be_written_is_made_in_memory(tmp_path: Path) -> None:
    store = filled(tmp_path)
    connect = sqlite3.connect

    def no_file(path: str | Path) -> sqlite3.Connection:
        if path != ":memory:":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path)

    with mock.patch("sqlite3.connect", no_file):
        assert agrees(store)
    assert not (tmp_path / NAME).exists()


def test_a_torn_last_line_is_not_indexed_and_damage_is_named(tmp_path: Path) -> None:
    store = filled(tmp_path)
    whole = store.lines.read_bytes()
    store.lines.write_bytes(whole[:-5])
    assert agrees(store)
    assert lines.repair(store.lines)
    assert agrees(store)
    store.lines.write_bytes(whole.splitlines(keepends=True)[0] + b"garbage\n" + whole)
    with pytest.raises(BadInput, match=r"trials\.jsonl, line 2"):
        store.statuses()


def test_csv_has_a_row_for_each_private_example(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = store.export(tmp_path / "out.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["example"], row["scores.psnr"]) for row in rows[:3]] == [("0", "20.0"), ("9", "nan"), ("1", "21.0")]
    assert rows[0]["spec.client.name"] == "Gradient"
    assert rows[0]["spec.space.shape"] == "[1, 6, 6]"
    assert rows[0]["baseline.grey.psnr"] == "12.0"
    assert rows[0]["environment.torch"] == "2.13"
    assert len(rows) == 6


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")

    table = parquet.read_table(filled(tmp_path).export(tmp_path / "out.parquet")).to_pydict()
    assert table["example"] == [0, 9, 1, 9, 2, 9]
    assert table["scores.psnr"][2] == 21.0
    assert table["spec.attack.name"] == ["dlg"] * 6


def test_other_endings_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a file that ends in \.csv or \.parquet, got 'out\.xlsx'"):
        filled(tmp_path).export(tmp_path / "out.xlsx")
