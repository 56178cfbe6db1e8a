"""What the coordinator needs of a place where trials run."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from gradleak.audits.executing import Call, Results


class Pool(Protocol):
    """Workers that take calls and hand back results, in any order.

    Attributes:
        size: calls that may be under way at the same time.
        workers: trials that run at the same time.
        seconds: how long a call should take: long enough that handing it over costs nothing, and short enough that
            little is lost when a worker dies.
        adaptive: whether calls start small and grow; otherwise the trials are shared out evenly from the start.
        lost: exceptions of a future that say that the worker died, and not the call failed.
        survives: whether the pool goes on after a worker died; otherwise all its futures fail, and a fresh one is
            needed.
    """

    size: int
    workers: int
    seconds: float
    adaptive: bool
    lost: tuple[type[BaseException], ...]
    survives: bool

    def submit(self, calls: Sequence[Call]) -> list[Future[Results]]:
        """Start calls; one future for each, in their order."""
        ...

    def close(self, *, kill: bool = False) -> None:
        """Release everything that was started for this run.

        Args:
            kill: end workers that are still busy instead of waiting for them.
        """
        ...
