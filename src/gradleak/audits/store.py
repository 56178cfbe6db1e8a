"""The folder of a run: `trials.jsonl`, `images/<id>.safetensors` or `texts/<id>.json`, and what is made from them.

One line is one trial. Images and texts are written first, so that no line points to nothing; a line that was cut off
by a kill or a full disk is left out with a warning, and cut away before the next one is written. `pictures/<id>.png`
and `index.sqlite` can be deleted at any time.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import save

from gradleak.audits import export, index, lock
from gradleak.audits.bounds import BoundFacts, BoundRecord, read_bounds
from gradleak.audits.ceiling_words import TOKENS, bound_sentences, ceiling_sentence, span_words
from gradleak.audits.ceilings import Ceiling, Span, ceilings_of
from gradleak.audits.declared import Declared, read_declared
from gradleak.audits.files import clear_words, remove_parts, write_whole
from gradleak.audits.frontier import Frontier, Interval, Point, frontiers_of
from gradleak.audits.limits import Checked, check_limits
from gradleak.audits.lines import append_lines, read_at, repair
from gradleak.audits.merits import MERITS, PSNR, TOKEN_ACCURACY, Merit
from gradleak.audits.pictures import encode_png, is_image, side_by_side
from gradleak.audits.prices import PriceRecord, read_prices
from gradleak.audits.pricing_keys import setting_key
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
    leak_at,
)
from gradleak.audits.texts import Run, Text, TrialTexts, compared, from_bytes, to_bytes
from gradleak.audits.trial import TrialImages
from gradleak.errors import BadInput
from gradleak.tensorfiles import read_safetensors

# A report reads this module and nothing else, so everything that it needs of a record has its name here.
__all__ = [
    "CLOSE_DB",
    "MERITS",
    "PSNR",
    "RECOGNIZABLE_DB",
    "TOKEN_ACCURACY",
    "BaselineRow",
    "BoundFacts",
    "BoundRecord",
    "Ceiling",
    "Checked",
    "Columns",
    "Contents",
    "Course",
    "Declared",
    "Difference",
    "Frontier",
    "Group",
    "ImageLeak",
    "Interval",
    "Leak",
    "Merit",
    "PackedTrial",
    "Point",
    "PriceRecord",
    "Rate",
    "Run",
    "Span",
    "Spread",
    "Store",
    "Summary",
    "Text",
    "TrialImages",
    "TrialRecord",
    "TrialTexts",
    "bound_sentences",
    "bounds_of",
    "capture_of",
    "ceiling_sentence",
    "compared",
    "column_numbers",
    "component_list",
    "encode_png",
    "is_image",
    "leak_at",
    "mapping",
    "pack",
    "plain",
    "settings_of",
    "settings_text",
    "side_by_side",
    "span_words",
    "write_whole",
]

_CUT_OFF = "The last line of {} is cut off and was left out; that trial will run again."


@dataclass(frozen=True)
class Contents:
    """What a store holds.

    Attributes:
        records: one for each id, in the order in which they were first written; a later line replaces an earlier one.
        warnings: what was left out, in words.
        declared: name, thresholds and limits of the audit.
        prices: what settings cost in accuracy, one entry for each training.
        bounds: what no attacker of a stated class can do better than, one entry for each captured batch.
    """

    records: tuple[TrialRecord, ...]
    warnings: tuple[str, ...] = ()
    declared: Declared = Declared()
    prices: tuple[PriceRecord, ...] = ()
    bounds: tuple[BoundRecord, ...] = ()

    @cached_property
    def summary(self) -> Summary:
        """The figures of a report."""
        return summarize(self.records, self.declared.thresholds)

    @cached_property
    def limits(self) -> tuple[Checked, ...]:
        """Every declared limit in every cell of the grid."""
        return check_limits(self.records, self.declared.limits)

    @cached_property
    def frontiers(self) -> tuple[Frontier, ...]:
        """Leakage against accuracy, for each model and data set; empty for an audit that asked for no prices."""
        if not (self.prices or self.declared.priced):
            return ()
        limit = next(iter(self.declared.limits), None)
        merit = self.summary.merit
        at, below = merit.thresholds(self.declared.thresholds)[0], None
        # A limit of another score, or one that such data cannot reach, is none of the leaks that a frontier shows.
        if limit is not None and limit.score in {None, merit.score} and limit.success_rate_at <= merit.highest:
            at, below = limit.success_rate_at, limit.below
        return frontiers_of(self.summary.groups, self.prices, threshold=at, below=below, ceilings=self.ceilings)

    @cached_property
    def ceilings(self) -> dict[str, Ceiling]:
        """What bounds say about settings, by key; empty for an audit that asked for none."""
        return ceilings_of(self.summary.groups, self.records, self.bounds)

    @property
    def without_bounds(self) -> str:
        """Why there are none although they were asked for, or an empty text."""
        return TOKENS if self.declared.bounded and self.summary.merit == TOKEN_ACCURACY else ""

    def ceiling_of(self, group: Group) -> Ceiling | None:
        """That of the setting of a group, if it has one."""
        return self.ceilings.get(setting_key(group.settings)) if self.ceilings else None

    @property
    def finished(self) -> frozenset[str]:
        """Ids that need not run again; an attack that raised an exception is tried once more."""
        return frozenset(record.id for record in self.records if record.status != "error")


@dataclass(frozen=True)
class PackedTrial:
    """A trial as the bytes that a store keeps, made where the trial ran, so that the one writer only writes.

    Attributes:
        id: of the trial.
        line: JSON with the line's end.
        images: a safetensors file; None for a trial without images.
        texts: a JSON file; None for a trial without texts.
    """

    id: str
    line: bytes
    images: bytes | None
    texts: bytes | None = None


def pack(record: TrialRecord, shown: TrialImages | TrialTexts | None = None) -> PackedTrial:
    """A record and its images or texts as bytes."""
    content: bytes | None = None
    texts = to_bytes(record.id, shown) if isinstance(shown, TrialTexts) else None
    if isinstance(shown, TrialImages):
        tensors = {
            "truth": shown.truth.contiguous(),
            "reconstruction": shown.reconstruction.contiguous(),
            "snapshots": shown.snapshots.contiguous(),
        }
        content = save(tensors, {"id": record.id})
    return PackedTrial(record.id, record.to_line().encode() + b"\n", content, texts)


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
            with clear_words(store.folder):
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
        records: dict[str, TrialRecord] = {}
        warnings: list[str] = []
        # Line by line: the text of a large audit is as large as its records.
        with clear_words(self.lines), self.lines.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    record = read_line(line.decode("utf-8", "replace"))
                except BadInput as error:
                    if line.endswith(b"\n"):
                        words = (f"{self.lines}, line {number}: {problem}" for problem in error.problems)
                        raise BadInput(words) from error
                    warnings.append(_CUT_OFF.format(self.lines.name))
                else:
                    records[record.id] = record
        declared, prices, bounds = read_declared(self.folder), read_prices(self.folder), read_bounds(self.folder)
        return Contents(tuple(records.values()), tuple(warnings), declared, prices, bounds)

    def records(self) -> tuple[TrialRecord, ...]:
        """The records alone; see `contents`."""
        return self.contents().records

    def append(self, record: TrialRecord, shown: TrialImages | TrialTexts | None = None) -> None:
        """Add a trial; when this returns, its line is on the disk.

        Args:
            record: becomes one line.
            shown: images or texts, written before that line.

        Raises:
            BadInput: when the folder is read-only or the disk is full.
        """
        self.append_all([pack(record, shown)])

    def append_all(self, trials: Sequence[PackedTrial]) -> None:
        """Add trials with one wait for the disk; when this returns, their lines are on the disk.

        Images survive a kill, but may be gone after a power cut, which would cost the pictures of those trials alone:
        a wait for each file takes longer than many a trial.

        Args:
            trials: in the order of the lines.

        Raises:
            BadInput: when the folder is read-only or the disk is full; those that did fit are kept.
        """
        lines: list[bytes] = []
        try:
            for trial in trials:
                if trial.images is not None:
                    write_whole(self._images_of(trial.id), trial.images, durable=False)
                if trial.texts is not None:
                    write_whole(self._texts_of(trial.id), trial.texts, durable=False)
                lines.append(trial.line)
        finally:
            if lines:
                append_lines(self.lines, b"".join(lines))

    @contextmanager
    def exclusive(self) -> Generator[tuple[str, ...]]:
        """Be the only one who adds trials, and clean up what killed processes left behind.

        Yields:
            What was cleaned up, in words.

        Raises:
            BadInput: when another process is writing, or the folder cannot be written.
        """
        with lock.exclusive(self.folder):
            for folder in (self.folder, *(self.folder / name for name in ("images", "texts", "pictures"))):
                remove_parts(folder)
            yield (_CUT_OFF.format(self.lines.name),) if repair(self.lines) else ()

    def statuses(self) -> dict[str, str]:
        """The status of every trial by id, without reading more than is new since the last time.

        Returns:
            Ids in the order of the lines.

        Raises:
            BadInput: see `contents`.
        """
        with index.opened(self.folder, self.lines) as connection:
            return dict(connection.execute("SELECT id, status FROM trials ORDER BY offset"))

    def find(self, identity: str) -> TrialRecord | None:
        """One record by its id, without reading the others.

        Returns:
            The record, or None if there is none.

        Raises:
            BadInput: see `contents`.
        """
        with index.opened(self.folder, self.lines) as connection:
            row = connection.execute("SELECT offset, length FROM trials WHERE id = ?", (identity,)).fetchone()
        return None if row is None else read_at(self.lines, *row)

    def export(self, path: str | Path) -> Path:
        """Write all trials as one flat table, one row for each private example; see `export.export`.

        Args:
            path: ends in `.csv` or `.parquet`.

        Returns:
            The path.

        Raises:
            BadInput: for another ending, or when it cannot be written.
        """
        export.check_ending(Path(path))
        export.export(self.records(), Path(path))
        return Path(path)

    def picture(self, record: TrialRecord) -> Path | None:
        """Truth and reconstruction side by side as a PNG file, drawn when it is first asked for.

        Returns:
            Where it is; None for a trial without images, or whose inputs are none.

        Raises:
            BadInput: when it cannot be written.
        """
        path = self.folder / "pictures" / f"{record.id}.png"
        if path.is_file():
            return path
        images = self.images(record)
        if images is None or not is_image(images.truth):
            return None
        write_whole(path, side_by_side(images.truth, images.reconstruction, bounds_of(record)), durable=False)
        return path

    def images(self, record: TrialRecord) -> TrialImages | None:
        """The images of a trial.

        Returns:
            The images, or None if there is no file.

        Raises:
            BadInput: when the file is damaged.
        """
        path = self._images_of(record.id)
        if not path.is_file() or path.stat().st_size == 0:  # empty is what a power cut may leave
            return None
        tensors, _ = read_safetensors(path)
        missing = {"truth", "reconstruction", "snapshots"} - set(tensors)
        if missing:
            raise BadInput([f"{path}: expected the tensors of a trial, got none named {sorted(missing)}; remove it"])
        return TrialImages(tensors["truth"], tensors["reconstruction"], tensors["snapshots"])

    def texts(self, record: TrialRecord) -> TrialTexts | None:
        """The texts of a trial.

        Returns:
            The texts, or None if there is no file.

        Raises:
            BadInput: when the file is damaged.
        """
        path = self._texts_of(record.id)
        if not path.is_file() or path.stat().st_size == 0:
            return None
        with clear_words(path):
            return from_bytes(path.read_bytes(), str(path))

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
        write_whole(path, content)
        return path

    def _images_of(self, identity: str) -> Path:
        return self.folder / "images" / f"{identity}.safetensors"

    def _texts_of(self, identity: str) -> Path:
        return self.folder / "texts" / f"{identity}.json"
