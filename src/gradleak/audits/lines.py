"""Files with one record a line: append, repair, the newest of each record, and one line by its place."""

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError

from gradleak.audits.files import clear_words
from gradleak.audits.records import TrialRecord, read_line
from gradleak.errors import BadInput


def append_lines(path: Path, lines: bytes) -> None:
    """Append whole lines with one write and one wait for the disk.

    What cannot be written is cut off again: every line that fits is kept, and none is torn.

    Args:
        path: a file of lines.
        lines: each with its end.

    Raises:
        BadInput: when the disk is full or the file cannot be written.
    """
    with clear_words(path), path.open("a+b", buffering=0) as file:
        _cut_off_torn_line(file)
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        finally:
            with suppress(OSError):  # the first failure is the one to tell
                _cut_off_torn_line(file)


class Identified(BaseModel):
    """A record of a line.

    Attributes:
        id: of what was run.
    """

    id: str


_Record = TypeVar("_Record", bound=Identified)


def newest_records(path: Path, kind: type[_Record], what: str) -> tuple[_Record, ...]:
    """What a file of lines holds: a later line of a record replaces an earlier one, and a torn line is left out.

    Args:
        path: need not exist.
        kind: of the records, which have an `id`.
        what: one of them in words, for errors.

    Returns:
        One for each id, the newest last.

    Raises:
        BadInput: when the file cannot be read, or a line other than the last is damaged.
    """
    if not path.exists():
        return ()
    found: dict[str, _Record] = {}
    with clear_words(path):
        lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = kind.model_validate_json(line)
        except ValidationError:
            if number == len(lines):
                continue
            raise BadInput([f"{path}:{number}: expected {what}, got another line; delete that line"]) from None
        found.pop(record.id, None)
        found[record.id] = record
    return tuple(found.values())


def repair(path: Path) -> bool:
    """Cut off a torn last line, if there is one.

    Returns:
        Whether something was cut off.

    Raises:
        BadInput: when the file cannot be read or written.
    """
    if not path.exists():
        return False
    with clear_words(path), path.open("r+b", buffering=0) as file:
        return _cut_off_torn_line(file)


def read_at(path: Path, offset: int, length: int) -> TrialRecord:
    """The record of `length` bytes from `offset`.

    Returns:
        The record.

    Raises:
        BadInput: when the file cannot be read, or there is no record at that place.
    """
    with clear_words(path), path.open("rb") as file:
        file.seek(offset)
        return read_line(file.read(length).decode("utf-8", "replace"))


def _cut_off_torn_line(file: IO[bytes]) -> bool:
    """Remove what a kill left behind the last whole line, so that the next line does not grow out of it."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return False
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return False
    file.seek(0)
    whole, newline, rest = file.read().rpartition(b"\n")
    try:
        read_line(rest.decode("utf-8", "replace"))
    except BadInput:
        file.truncate(len(whole) + len(newline))
        return True
    file.seek(0, os.SEEK_END)
    file.write(b"\n")  # only the line's end was missing
    return False
