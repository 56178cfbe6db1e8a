"""A run folder as one flat table: one row for each private example of each trial."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradleak.audits.files import clear_words
from gradleak.audits.optional import optional
from gradleak.audits.records import TrialRecord
from gradleak.errors import BadInput

ENDINGS = (".csv", ".parquet")

_TRIAL = ("id", "status", "attack", "data", "batch_size", "objective", "evaluations", "seconds", "message")


def check_ending(path: Path) -> None:
    """Refuse a file whose ending names no format.

    Raises:
        BadInput: for anything but the endings in `ENDINGS`.
    """
    if path.suffix.lower() not in ENDINGS:
        raise BadInput([f"{path}: expected a file that ends in {' or '.join(ENDINGS)}, got {path.name!r}; rename it"])


def export(records: Sequence[TrialRecord], path: Path) -> None:
    """Write the table.

    Columns of a trial repeat in each of its rows. `spec.*` are its settings (lists as JSON text), `scores.*` are those
    of the example, `baseline.NAME.*` those of an answer that never saw the update, and `environment.*` says on what
    it ran.

    Args:
        records: in the order of the rows.
        path: ends in `.csv` (NaN as `nan`, nothing as an empty cell) or `.parquet`, which needs pyarrow.

    Raises:
        BadInput: for another ending, without pyarrow, or when the file cannot be written.
    """
    check_ending(path)
    rows = [row for record in records for row in rows_of(record)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix.lower() == ".csv":
        with clear_words(path), path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows(rows)
    else:
        _write_parquet(rows, names, path)


def rows_of(record: TrialRecord) -> list[dict[str, Any]]:
    """One row for each private example of a trial; one without scores if it has none."""
    trial = {name: getattr(record, name) for name in _TRIAL}
    trial |= _flat(record.spec, "spec")
    trial["threat"] = record.threat
    trial["targets_given"] = record.targets_given
    trial |= _flat(record.environment, "environment")
    groups = {"scores": record.scores} | {f"baseline.{name}": columns for name, columns in record.baselines.items()}
    rows: list[dict[str, Any]] = []
    for position in range(max(1, record.batch_size)):
        row = trial | {"row": position}
        if record.batch_size:
            row["example"] = record.examples[position]
        for group, columns in groups.items():
            row |= {f"{group}.{name}": cells[position] for name, cells in columns.items() if position < len(cells)}
        rows.append(row)
    return rows


def _flat(value: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        name = f"{prefix}.{key}"
        if isinstance(entry, Mapping):
            flat |= _flat(entry, name)
        else:
            flat[name] = json.dumps(entry) if isinstance(entry, list) else entry
    return flat


def _write_parquet(rows: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    arrow = optional("pyarrow", "parquet", "exporting Parquet")
    parquet = optional("pyarrow.parquet", "parquet", "exporting Parquet")
    columns = {name: _uniform([row.get(name) for row in rows]) for name in names}
    with clear_words(path):
        parquet.write_table(arrow.table(columns), path)


def _uniform(values: list[Any]) -> list[Any]:
    """Values that fit one column type: numbers as floats if some are, and everything as text if kinds are mixed."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [value if value is None else float(value) for value in values]
    return [value if value is None else str(value) for value in values]
