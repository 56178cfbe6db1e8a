"""`index.sqlite`: where each trial's line begins, and its main settings and scores, for tools that need few of many.

The lines are the truth and the index is made from them at will: one that is missing, stale, damaged or of another
version is made anew without a word, and one that cannot be written is made in memory.
"""

import hashlib
import json
import math
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from gradleak.audits.files import clear_words
from gradleak.audits.records import VERSION, component_list, mapping, read_line, settings_text
from gradleak.errors import BadInput

NAME = "index.sqlite"

_LAYOUT = 1  # of the tables; another number makes the index anew

_COLUMNS = {
    "id": "TEXT PRIMARY KEY",
    "offset": "INTEGER",
    "length": "INTEGER",
    "status": "TEXT",
    "attack": "TEXT",
    "model": "TEXT",
    "stage": "TEXT",
    "data": "TEXT",
    "batch_size": "INTEGER",
    "batch": "INTEGER",
    "client": "TEXT",
    "defenses": "TEXT",
    "threat": "TEXT",
    "seed": "INTEGER",
    "psnr_highest": "REAL",
    "psnr_lowest": "REAL",
    "ssim_highest": "REAL",
    "objective": "REAL",
    "evaluations": "INTEGER",
    "seconds": "REAL",
}
# A later line of an id replaces the earlier one.
_INSERT = f"INSERT OR REPLACE INTO trials VALUES ({', '.join('?' * len(_COLUMNS))})"


@contextmanager
def opened(folder: Path, lines: Path) -> Generator[sqlite3.Connection]:
    """The index, up to date with the lines.

    Args:
        folder: where `index.sqlite` is.
        lines: the file with one trial a line; a torn last line is left out.

    Yields:
        A connection whose table `trials` has one row for each trial, in the order of the lines.

    Raises:
        BadInput: when the lines cannot be read, or one other than the last is damaged.
    """
    connection = _on_disk(folder / NAME, lines) or _made(":memory:", lines)
    with closing(connection):
        yield connection


def _on_disk(path: Path, lines: Path) -> sqlite3.Connection | None:
    """The index in its file, made anew if it has to be; None if that is not possible."""
    for _ in range(2):
        try:
            return _made(path, lines)
        except sqlite3.OperationalError:  # read-only, full, or locked by another process
            return None
        except sqlite3.DatabaseError:  # no database, or a damaged one
            try:
                path.unlink(missing_ok=True)
            except OSError:
                return None
    return None


def _made(path: Path | str, lines: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # a power cut may damage it, and then it is made anew
        _update(connection, lines)
    except BaseException:
        connection.close()
        raise
    return connection


def _update(connection: sqlite3.Connection, lines: Path) -> None:
    """Add the lines that are new, or all of them if what is there does not belong to this file."""
    with clear_words(lines):
        stat = lines.stat() if lines.exists() else None
    size, changed = (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)
    covered = _covered(connection, lines, size, changed)
    if covered == size and size:
        return
    with connection:
        if covered == 0:
            connection.execute("DROP TABLE IF EXISTS trials")
            connection.execute("DROP TABLE IF EXISTS source")
            columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
            connection.execute(f"CREATE TABLE trials ({columns})")
            connection.execute("CREATE TABLE source (covered INTEGER, changed INTEGER, last INTEGER, mark TEXT)")
            connection.execute(f"PRAGMA user_version = {_LAYOUT}")
        if size > covered:
            _read(connection, lines, covered, changed)


def _covered(connection: sqlite3.Connection, lines: Path, size: int, changed: int) -> int:
    """How many bytes of the file the index describes; 0 if it describes another file."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
        return 0
    found = connection.execute("SELECT covered, changed, last, mark FROM source").fetchone()
    if found is None:
        return 0
    covered, then, last, mark = found
    if covered > size or (covered == size and then != changed):
        return 0
    with clear_words(lines), lines.open("rb") as file:
        file.seek(last)
        return covered if _mark(file.read(covered - last)) == mark else 0


def _read(connection: sqlite3.Connection, lines: Path, start: int, changed: int) -> None:
    """Rows for the whole lines from `start` on."""
    offset, last, mark = start, start, ""
    number = 0
    with clear_words(lines), lines.open("rb") as file:
        file.seek(start)
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break  # torn, or still being written
            if line.strip():
                connection.execute(_INSERT, _row(_parsed(line, lines, number, start), offset, len(line)))
            last, mark = offset, _mark(line)
            offset += len(line)
    if mark:
        connection.execute("DELETE FROM source")
        connection.execute("INSERT INTO source VALUES (?, ?, ?, ?)", (offset, changed, last, mark))


def _mark(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _parsed(line: bytes, path: Path, number: int, start: int) -> Mapping[str, Any]:
    """The line's JSON; validated in full only where it looks wrong, because ten thousand lines take seconds."""
    try:
        content = json.loads(line)
        if content["version"] == VERSION and {"id", "status", "spec", "scores"} <= set(content):
            return content
    except (ValueError, KeyError, TypeError):
        pass
    try:
        return read_line(line.decode("utf-8", "replace")).model_dump()
    except BadInput as error:
        where = f"line {number}" if start == 0 else f"line {number} after byte {start}"
        raise BadInput(f"{path}, {where}: {problem}" for problem in error.problems) from error


def _row(content: Mapping[str, Any], offset: int, length: int) -> tuple[Any, ...]:
    """One trial's values in the order of the columns."""
    spec = mapping(content["spec"])
    psnr = _numbers(content, "psnr")
    ssim = _numbers(content, "ssim")
    values = {
        "id": content["id"],
        "offset": offset,
        "length": length,
        "status": content["status"],
        "attack": mapping(spec.get("attack")).get("name"),
        "model": mapping(spec.get("model")).get("name"),
        "stage": spec.get("stage"),
        "data": mapping(spec.get("data")).get("name"),
        "batch_size": max(map(len, content["scores"].values()), default=0),
        "batch": spec.get("batch"),
        "client": settings_text(spec.get("client")),
        "defenses": ", ".join(map(settings_text, component_list(spec.get("defenses")))),
        "threat": content.get("threat"),
        "seed": spec.get("seed"),
        "psnr_highest": max(psnr, default=None),
        "psnr_lowest": min(psnr, default=None),
        "ssim_highest": max(ssim, default=None),
        "objective": float(content.get("objective", math.nan)),
        "evaluations": content.get("evaluations"),
        "seconds": float(content.get("seconds", math.nan)),
    }
    return tuple(
        value if value is None or isinstance(value, str | int | float) else json.dumps(value)
        for value in (values[name] for name in _COLUMNS)
    )


def _numbers(content: Mapping[str, Any], column: str) -> list[float]:
    """A column of scores without what is missing or NaN."""
    numbers = [float(cell) for cell in content["scores"].get(column, ()) if cell is not None]
    return [value for value in numbers if not math.isnan(value)]
