"""The folder of a run: `trials.jsonl`, `images/<id>.safetensors`, `pictures/<id>.png`.

One line is one trial. Images are written first, so that no line points to nothing; a line that was cut off by a kill
or a full disk is left out with a warning, and cut away before the next one is written.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from safetensors.torch import save

from gradleak.audits.declared import Declared, read_declared
from gradleak.audits.limits import Checked, check_limits
from gradleak.audits.pictures import encode_png, is_image, side_by_side
from gradleak.audits.records import (
    Columns,
    Course,
    TrialRecord,
    bounds_of,
    column_numbers,
    component_list,
    mapping,
    plain,
    read_line,
    settings_text,
)
from gradleak.audits.summarizing import capture_of, settings_of, summarize
from gradleak.audits.summary import (
    CLOSE_DB,
    RECOGNIZABLE_DB,
    BaselineRow,
    Difference,
    Group,
    ImageLeak,
    Leak,
    Rate,
    Spread,
    Summary,
)
from gradleak.audits.trial import TrialImages
from gradleak.errors import BadInput
from gradleak.tensorfiles import read_safetensors

# A report reads this module and nothing else, so everything that it needs of a record has its name here.
__all__ = [
    "CLOSE_DB",
    "RECOGNIZABLE_DB",
    "BaselineRow",
    "Checked",
    "Columns",
    "Contents",
    "Course",
    "Declared",
    "Difference",
    "Group",
    "ImageLeak",
    "Leak",
    "Rate",
    "Spread",
    "Store",
    "Summary",
    "TrialImages",
    "TrialRecord",
    "bounds_of",
    "capture_of",
    "column_numbers",
    "component_list",
    "encode_png",
    "is_image",
    "mapping",
    "plain",
    "settings_of",
    "settings_text",
    "side_by_side",
]


@dataclass(frozen=True)
class Contents:
    """What a store holds.

    Attributes:
        records: one for each id, in the order in which they were first written; a later line replaces an earlier one.
        warnings: what was left out, in words.
        declared: name, thresholds and limits of the audit.
    """

    records: tuple[TrialRecord, ...]
    warnings: tuple[str, ...] = ()
    declared: Declared = Declared()

    @cached_property
    def summary(self) -> Summary:
        """The figures of a report."""
        return summarize(self.records, self.declared.thresholds)

    @cached_property
    def limits(self) -> tuple[Checked, ...]:
        """Every declared limit in every cell of the grid."""
        return check_limits(self.records, self.declared.limits)

    @property
    def finished(self) -> frozenset[str]:
        """Ids that need not run again; an attack that raised an exception is tried once more."""
        return frozenset(record.id for record in self.records if record.status != "error")


@dataclass(frozen=True)
class Store:
    """The trials of one folder.

    Attributes:
        folder: holds `trials.jsonl` and the images.
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | Path, *, create: bool = True) -> "Store":
        """The store of a folder.

        Args:
            folder: where it is.
            create: make the folder if there is none.

        Returns:
            The store; nothing is read yet.

        Raises:
            BadInput: when it cannot be made or written to, or with `create=False` when it holds no trials.
        """
        store = cls(Path(folder))
        if create:
            with _clear_words(store.folder):
                store.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(store.folder, os.W_OK | os.X_OK):
                raise BadInput([f"{store.folder}: expected a folder to write to, got a read-only one; choose another"])
        elif not store.lines.is_file():
            got = "none in it" if store.folder.is_dir() else "no such folder"
            raise BadInput([f"{store.folder}: expected a folder with trials.jsonl, got {got}; check the path"])
        return store

    @property
    def lines(self) -> Path:
        """The file with one trial a line."""
        return self.folder / "trials.jsonl"

    def contents(self) -> Contents:
        """Every record that can be read.

        Returns:
            Records and warnings.

        Raises:
            BadInput: when the file cannot be read, or a line other than the last is damaged.
        """
        if not self.lines.exists():
            return Contents(())
        with _clear_words(self.lines):
            text = self.lines.read_bytes()
        records: dict[str, TrialRecord] = {}
        warnings: list[str] = []
        lines = text.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = read_line(line.decode("utf-8", "replace"))
            except BadInput as error:
                if number < len(lines):
                    raise BadInput(f"{self.lines}, line {number}: {problem}" for problem in error.problems) from error
                warnings.append(
                    f"The last line of {self.lines.name} is cut off and was left out; that trial will run again."
                )
            else:
                records[record.id] = record
        return Contents(tuple(records.values()), tuple(warnings), read_declared(self.folder))

    def records(self) -> tuple[TrialRecord, ...]:
        """The records alone; see `contents`."""
        return self.contents().records

    def append(self, record: TrialRecord, images: TrialImages) -> None:
        """Add a trial; when this returns, it is on the disk.

        Args:
            record: becomes one line.
            images: written before that line.

        Raises:
            BadInput: when the folder is read-only or the disk is full.
        """
        tensors = {
            "truth": images.truth.contiguous(),
            "reconstruction": images.reconstruction.contiguous(),
            "snapshots": images.snapshots.contiguous(),
        }
        self.write(f"images/{record.id}.safetensors", save(tensors, {"id": record.id}))
        if is_image(images.truth):
            picture = side_by_side(images.truth, images.reconstruction, bounds_of(record))
            self.write(f"pictures/{record.id}.png", picture)
        with _clear_words(self.lines), self.lines.open("a+b") as file:
            _cut_off_torn_line(file)
            file.write(record.to_line().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def images(self, record: TrialRecord) -> TrialImages | None:
        """The images of a trial.

        Returns:
            The images, or None if the file is gone.

        Raises:
            BadInput: when the file is damaged.
        """
        path = self.folder / "images" / f"{record.id}.safetensors"
        if not path.is_file():
            return None
        tensors, _ = read_safetensors(path)
        missing = {"truth", "reconstruction", "snapshots"} - set(tensors)
        if missing:
            raise BadInput([f"{path}: expected the tensors of a trial, got none named {sorted(missing)}; remove it"])
        return TrialImages(tensors["truth"], tensors["reconstruction"], tensors["snapshots"])

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of the folder, whole or not at all.

        Args:
            name: relative to the folder.
            content: the bytes.

        Returns:
            Where it is.

        Raises:
            BadInput: when the folder is read-only or the disk is full.
        """
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        with _clear_words(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return path


def _cut_off_torn_line(file: IO[bytes]) -> None:
    """Remove what a kill left behind the last whole line, so that the next line does not grow out of it."""
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    whole, newline, rest = file.read().rpartition(b"\n")
    try:
        read_line(rest.decode("utf-8", "replace"))
    except BadInput:
        file.truncate(len(whole) + len(newline))
    else:  # only the line's end is missing
        file.write(b"\n")


@contextmanager
def _clear_words(path: Path) -> Generator[None]:
    """Turn a failure of the file system into bad input.

    Raises:
        BadInput: for every `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise BadInput(
            [f"{path}: expected a place that can be read and written, got: {reason}; free space or choose another"]
        ) from error
