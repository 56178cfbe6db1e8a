"""Trials on a dask cluster: one that runs already, or one of this machine that is started for the run."""

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from gradleak.audits.backends.loky import thread_variables
from gradleak.audits.executing import Call, Results
from gradleak.audits.optional import optional
from gradleak.errors import BadInput

_CONNECT_SECONDS = 10


class DaskPool:
    """A client of a dask scheduler."""

    seconds = 1.0
    adaptive = True
    survives = True

    def __init__(self, workers: int | None, threads: int, address: str | None) -> None:
        dask, distributed = (optional(name, "dask", "running trials on dask") for name in ("dask", "distributed"))
        self.lost: tuple[type[BaseException], ...] = (distributed.KilledWorker, CancelledError)
        self._cluster: Any = None
        if address is None:
            # One death is one attempt: this package counts them, and dask would put each trial back three times.
            settings = {"distributed.scheduler.allowed-failures": 0}
            settings |= {f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in thread_variables(threads).items()}
            self._settings = dask.config.set(settings)
            self._cluster = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
            )
        try:
            self._client: Any = distributed.Client(self._cluster or address, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise BadInput(
                [f"run.address: expected a running dask scheduler, got {address!r} ({error}); check the address"]
            ) from error
        running = sum(self._client.nthreads().values())
        self.workers = workers or max(1, running)
        self.size = self.workers

    def submit(self, calls: Sequence[Call]) -> list[Future[Results]]:
        """Hand the calls to the scheduler."""
        return [self._future(self._client.submit(call, pure=False)) for call in calls]

    def _future(self, remote: Any) -> Future[Results]:
        """A future of the standard library that follows one of dask."""
        local: Future[Results] = Future()

        def ended(done: Any) -> None:
            try:
                local.set_result(done.result())
            # Whatever went wrong belongs to whoever asks for the result.
            except (Exception, CancelledError) as error:  # noqa: BLE001
                local.set_exception(error)

        remote.add_done_callback(ended)
        return local

    def close(self, *, kill: bool = False) -> None:
        """Leave the cluster, and end it if it was started here."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
            self._settings.__exit__(None, None, None)
