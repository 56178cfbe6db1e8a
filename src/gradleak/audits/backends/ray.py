"""Trials on a ray cluster: one that runs already, or one of this machine that is started for the run."""

import os
import re
import socket
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from gradleak.audits.backends.loky import thread_variables
from gradleak.audits.executing import Call, Results
from gradleak.audits.optional import optional
from gradleak.errors import BadInput

_CONNECT_SECONDS = 10


class RayPool:
    """Tasks of ray."""

    seconds = 1.0
    adaptive = True
    survives = True

    def __init__(self, workers: int | None, threads: int, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # an audit of private data calls nobody
        ray, exceptions = (optional(name, "ray", "running trials on ray") for name in ("ray", "ray.exceptions"))
        self.lost: tuple[type[BaseException], ...] = (
            exceptions.WorkerCrashedError,
            exceptions.OutOfMemoryError,
            exceptions.NodeDiedError,
            exceptions.LocalRayletDiedError,
        )
        self._ray: Any = ray
        self._started = not ray.is_initialized()
        if self._started:
            self._start(workers, threads, address)
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        self.size = self.workers
        # One death is one attempt: this package counts them.
        self._run: Any = ray.remote(num_cpus=1 if address is None else threads, max_retries=0)(_run)

    def _start(self, workers: int | None, threads: int, address: str | None) -> None:
        environment = {"env_vars": thread_variables(threads)}
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": environment}
        if address is None:
            options |= {"num_cpus": workers, "include_dashboard": False}
        try:
            _knock(address or "")
            self._ray.init(address=address or "local", **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInput(
                [f"run.address: expected a running ray cluster, got {address!r} ({error}); check the address"]
            ) from error

    def submit(self, calls: Sequence[Call]) -> list[Future[Results]]:
        """Hand the calls to ray."""
        return [self._run.remote(call).future() for call in calls]

    def close(self, *, kill: bool = False) -> None:
        """Leave the cluster, which ends it if it was started here."""
        if self._started:
            self._ray.shutdown()


def _knock(address: str) -> None:
    """Fail at once where nobody listens; ray itself would try for minutes.

    Raises:
        OSError: when host and port are given and do not answer.
    """
    named = re.fullmatch(r"(?:ray://)?([\w.-]+):(\d+)", address)
    if named:
        socket.create_connection((named[1], int(named[2])), _CONNECT_SECONDS).close()


def _run(call: Call) -> Results:
    return call()
