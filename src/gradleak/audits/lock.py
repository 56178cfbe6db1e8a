"""One writer for each run folder."""

import os
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from gradleak.audits.files import clear_words
from gradleak.errors import BadInput

NAME = ".lock"


@contextmanager
def exclusive(folder: Path) -> Generator[None]:
    """Hold the folder's lock; nobody else can hold it until this ends or the process dies, however it dies.

    The lock is the operating system's (`flock`), so a file that a dead process leaves behind locks nothing. Where the
    file system or the platform has none, there is no lock.

    Args:
        folder: the run folder.

    Yields:
        Nothing.

    Raises:
        BadInput: when another process holds it, with who that is; or when the folder cannot be written.
    """
    path = folder / NAME
    with clear_words(path):
        file = path.open("a+", encoding="utf-8")
    with file:
        if not _locked(file.fileno()):
            file.seek(0)
            raise BadInput(
                [
                    f"{folder}: expected a folder that nobody else writes to, got one in use by "
                    f"{file.read().strip() or 'another run'}; wait for it, end it, or choose another folder"
                ]
            )
        with clear_words(path):
            file.truncate(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"process {os.getpid()} on {platform.node() or 'this machine'} since {started}")
            file.flush()
        yield


def _locked(descriptor: int) -> bool:
    """Whether this process holds the lock now; True where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems know no locks
        return True
    return True
