"""Trials one after the other in the calling process: for debugging, and where nothing else may be started."""

from collections.abc import Sequence
from concurrent.futures import Future

from gradleak.audits.executing import Call, Results


class InProcessPool:
    """No worker at all; a call runs while it is submitted."""

    size = 1
    workers = 1
    seconds = 0.5
    adaptive = True
    lost: tuple[type[BaseException], ...] = ()
    survives = True

    def submit(self, calls: Sequence[Call]) -> list[Future[Results]]:
        """Run the calls."""
        futures: list[Future[Results]] = []
        for call in calls:
            future: Future[Results] = Future()
            future.set_result(call())
            futures.append(future)
        return futures

    def close(self, *, kill: bool = False) -> None:
        """Nothing to release."""
