"""Texts from files, as token ids: one text a line."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import torch

from gradleak.errors import BadInput, refuse
from gradleak.tokens import TokenSpace
from gradleak.zoo.data.dataset import Dataset
from gradleak.zoo.data.words import Tokenizer, WordTokenizer

SUFFIX = ".txt"

MESSAGES = "messages"
"""Name of the bundled texts, and of the folder with them."""

LARGEST_FILE = 256 * 2**20
"""Bytes of a text file; more is a slip of the finger, and would not fit in memory as ids."""

_HEADING = re.compile(r"=.*=")
"""A line of WikiText that is no text."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")


@dataclass(frozen=True)
class Texts:
    """Texts with their classes.

    Attributes:
        name: what messages and reports call them.
        lines: one text each.
        labels: their classes, as positions in `class_names`.
        class_names: one name for each class.
    """

    name: str
    lines: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]


def messages() -> Texts:
    """400 short English messages as people type them at home, at work, on a journey, or to a support desk.

    They were written for this package; nobody in them exists.

    Returns:
        100 of each class.
    """
    return _of_folder(resources.files("gradleak.zoo.data").joinpath(MESSAGES), MESSAGES, sentences=False)


def holds_texts(path: Path) -> bool:
    """Whether a path is a text file, or a folder of text files."""
    if path.is_dir():
        return any(_is_text(entry) for entry in path.iterdir())
    return path.name.lower().endswith(SUFFIX)


def read_texts(path: str | Path, *, sentences: bool = False) -> Texts:
    """The lines of a `.txt` file in UTF-8, or of all such files in a folder, each of which is a class of its name.

    Empty lines and headings as WikiText has them (`= Title =`) are left out.

    Args:
        path: file or folder.
        sentences: whether each sentence of a line is a text, rather than the line.

    Returns:
        The texts, in the order of file names and lines.

    Raises:
        BadInput: when there is nothing, or it is no text.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput([f"{path}: expected a text file or a folder of them, got nothing there; check the path"])
    if path.is_dir():
        return _of_folder(path, path.resolve().name, sentences=sentences)
    name = path.name[: -len(SUFFIX)] if path.name.lower().endswith(SUFFIX) else path.name
    return _of_files(((name, path),), name, sentences=sentences)


def text_dataset(
    texts: Texts,
    tokenizer: Tokenizer | None = None,
    *,
    vocabulary: int | None = None,
    length: int | None = None,
    shortest: int = 1,
    marks: bool = False,
) -> Dataset:
    """Texts as token ids.

    Args:
        texts: what was read.
        tokenizer: turns them into ids; None for the words of these very texts.
        vocabulary: most ids of that tokenizer of words.
        length: tokens of an input, to which longer texts are cut and shorter ones filled up; None for the longest text.
        shortest: texts with fewer tokens are left out.
        marks: put the ids of begin and end around each text.

    Returns:
        Ids `[n, length]` with the class of each text.

    Raises:
        BadInput: when a number is out of range, no text is left, or the tokenizer lacks the ids that are needed.
    """
    if tokenizer is None:
        tokenizer = WordTokenizer.trained(texts.lines, vocabulary)
    elif vocabulary is not None:
        text = f"{tokenizer.vocabulary} ids"
        raise BadInput([f"vocabulary: expected none with a tokenizer of {text}, got {vocabulary}; leave it out"])
    refuse(_problems(tokenizer, length=length, shortest=shortest, marks=marks))
    rows = [_marked(tokenizer.ids(line), tokenizer) if marks else tokenizer.ids(line) for line in texts.lines]
    kept = [number for number, row in enumerate(rows) if len(row) >= shortest]
    if not kept:
        raise BadInput([f"data {texts.name!r}: expected a text of {shortest} tokens or more, got none; lower shortest"])
    count = max(len(rows[number]) for number in kept) if length is None else length
    cut = [_cut(rows[number], count, marks=marks) for number in kept]
    if tokenizer.padding is None and any(len(row) < count for row in cut):
        least = min(map(len, cut))
        raise BadInput(
            [
                f"length: expected at most {least} (the shortest text) with a tokenizer that has no padding, got "
                f"{count}; lower it, raise shortest, or use a tokenizer with padding"
            ]
        )
    filled = [row + [tokenizer.padding or 0] * (count - len(row)) for row in cut]
    space = space_of_tokenizer(tokenizer, count)
    labels = torch.tensor([texts.labels[number] for number in kept])
    return Dataset(texts.name, torch.tensor(filled), labels, texts.class_names, space)


def space_of_tokenizer(tokenizer: Tokenizer, length: int) -> TokenSpace:
    """The input space of a tokenizer's texts with `length` positions."""
    special = tuple(token for token in (tokenizer.begin, tokenizer.end) if token is not None)
    return TokenSpace(
        tokenizer.vocabulary,
        length,
        padding=tokenizer.padding,
        mask=tokenizer.mask,
        special=special,
        to_text=tokenizer.text,
    )


def vocabulary_digest(space: TokenSpace) -> str:
    """16 hexadecimal digits of SHA-256 of what every id means, by which two tokenizers can be told apart.

    Args:
        space: of the texts.

    Returns:
        The digest; the same for spaces whose ids read the same.
    """
    words = [] if space.to_text is None else [space.to_text([token]) for token in range(space.vocabulary)]
    return hashlib.sha256(json.dumps([space.vocabulary, words]).encode()).hexdigest()[:16]


def _problems(tokenizer: Tokenizer, *, length: int | None, shortest: int, marks: bool) -> list[str]:
    least = 3 if marks else 1
    problems: list[str] = []
    if length is not None and length < least:
        problems.append(f"length: expected at least {least}, got {length}; give the tokens of an input")
    if shortest < 1:
        problems.append(f"shortest: expected at least 1 token, got {shortest}; give 1 or more")
    if length is not None and shortest > length >= least:
        problems.append(f"shortest: expected at most the length {length}, got {shortest}; texts are cut to the length")
    if marks and (tokenizer.begin is None or tokenizer.end is None):
        problems.append("marks: expected a tokenizer with ids for begin and end, got one without; leave marks out")
    return problems


def _marked(row: list[int], tokenizer: Tokenizer) -> list[int]:
    assert tokenizer.begin is not None  # refused before; said again for the type checker
    assert tokenizer.end is not None
    return [tokenizer.begin, *row, tokenizer.end]


def _cut(row: list[int], length: int, *, marks: bool) -> list[int]:
    """The first tokens; a mark at the end stays."""
    return [*row[: length - 1], row[-1]] if marks and len(row) > length else row[:length]


def _is_text(entry: Path | Traversable) -> bool:
    return entry.name.lower().endswith(SUFFIX) and not entry.name.startswith(".") and entry.is_file()


def _of_folder(folder: Path | Traversable, name: str, *, sentences: bool) -> Texts:
    """Every text file of a folder is a class.

    Returns:
        The texts.

    Raises:
        BadInput: when there is no such file.
    """
    files = sorted((entry for entry in folder.iterdir() if _is_text(entry)), key=lambda entry: entry.name)
    if not files:
        raise BadInput([f"{folder}: expected text files ({SUFFIX}) directly inside, got none; check the path"])
    return _of_files([(entry.name[: -len(SUFFIX)], entry) for entry in files], name, sentences=sentences)


def _of_files(files: Sequence[tuple[str, Path | Traversable]], name: str, *, sentences: bool) -> Texts:
    lines: list[str] = []
    labels: list[int] = []
    problems: list[str] = []
    for label, (_, file) in enumerate(files):
        try:
            found = _lines(_read(file), sentences=sentences)
        except BadInput as error:
            problems += error.problems
            continue
        if not found:
            problems.append(f"{file}: expected a text in a line, got none; add some or remove the file")
        lines += found
        labels += [label] * len(found)
    refuse(problems)
    return Texts(name, tuple(lines), tuple(labels), tuple(label for label, _ in files))


def _read(file: Path | Traversable) -> str:
    """The contents of a file.

    Returns:
        Its text.

    Raises:
        BadInput: when it cannot be read, is too large, or is not in UTF-8.
    """
    try:
        if isinstance(file, Path) and file.stat().st_size > LARGEST_FILE:
            got = f"{file.stat().st_size} bytes"
            raise BadInput([f"{file}: expected a text file of at most {LARGEST_FILE} bytes, got {got}; split it"])
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput([f"{file}: expected text in UTF-8, got other bytes; save it as UTF-8"]) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput([f"{file}: expected a text file, got {reason}; check the path"]) from None


def _lines(text: str, *, sentences: bool) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    kept = [line for line in stripped if line and not _HEADING.fullmatch(line)]
    return [part for line in kept for part in _SENTENCE_END.split(line)] if sentences else kept
