"""Writing files so that a kill at any byte leaves them whole or absent, and a failing disk is named."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from gradleak.errors import BadInput

_PART = ".part"


@contextmanager
def clear_words(path: Path) -> Generator[None]:
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


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all.

    Args:
        path: its folder is made if there is none.
        content: the bytes.
        durable: wait until the bytes survive a power cut; a kill they survive anyway.

    Raises:
        BadInput: when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    with clear_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; files of processes that still run are left alone."""
    for path in folder.glob(f".*{_PART}"):
        with suppress(OSError):  # somebody else was faster, or the folder is read-only, which writing will report
            writer = path.name.removesuffix(_PART).rpartition(".")[2]
            if not (writer.isdigit() and _runs(int(writer))):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()
