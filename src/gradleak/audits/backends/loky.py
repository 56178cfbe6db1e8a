"""Worker processes on this machine, through the loky executor that joblib brings."""

import gc
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from shutil import rmtree
from typing import Any

from gradleak.audits.backends.spool import Spooled, read_spooled
from gradleak.audits.executing import Call, Results

_ORPHAN_SECONDS = 1.0


class LokyPool:
    """Processes that are started afresh, so that no state of the calling process reaches a trial.

    joblib's `Parallel` would end everything when one worker dies, and would run one worker in the calling process;
    the executor below it tells which calls were under way.
    """

    seconds = 1.0
    adaptive = True
    lost: tuple[type[BaseException], ...] = (BrokenExecutor,)
    survives = False

    def __init__(self, workers: int, threads: int, folder: Path) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self.size = self.workers = workers
        self._spool = folder / ".spool"
        self._executor: Any = ProcessPoolExecutor(
            max_workers=workers, initializer=_start_worker, initargs=(os.getpid(),), env=thread_variables(threads)
        )

    def submit(self, calls: Sequence[Call]) -> list[Future[Results]]:
        """Hand the calls to the workers."""
        return [read_spooled(self._executor.submit(Spooled(call, str(self._spool)))) for call in calls]

    def close(self, *, kill: bool = False) -> None:
        """End the workers."""
        self._executor.shutdown(wait=True, kill_workers=kill)
        rmtree(self._spool, ignore_errors=True)


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that keep the numeric libraries of a new process to so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return dict.fromkeys(names, str(threads))


def _start_worker(coordinator: int) -> None:
    """Leave Ctrl-C to the coordinator, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(coordinator,), daemon=True).start()
    gc.freeze()  # loky collects garbage after calls, and what torch brings is looked through in vain: 30 ms each time


def _watch(coordinator: int) -> None:
    while os.getppid() == coordinator:
        time.sleep(_ORPHAN_SECONDS)
    os._exit(1)
