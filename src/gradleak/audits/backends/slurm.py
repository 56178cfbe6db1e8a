"""Trials as job arrays of Slurm, through submitit."""

import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from gradleak.audits.executing import Call, Results
from gradleak.audits.optional import optional
from gradleak.errors import BadInput

LOCAL = "local"
"""The address that runs the jobs as processes of this machine, to try out what a cluster would do."""

_POLL_SECONDS = {"slurm": 5.0, LOCAL: 0.2}


class SlurmPool:
    """One job array for all calls that are handed over together.

    A call should take minutes, because a job has to wait in the queue first. Jobs of a run that was killed stay in
    the queue until they have ended; `scancel` ends them earlier. Logs and pickles of submitit are in `slurm/` of the
    run folder, which the cluster's machines have to see under the same path.
    """

    seconds = 600.0
    adaptive = False
    survives = True

    def __init__(
        self, workers: int, threads: int, folder: Path, address: str | None, options: Mapping[str, str | int | bool]
    ) -> None:
        submitit = optional("submitit", "slurm", "running trials on Slurm")
        if address not in {None, LOCAL}:
            raise BadInput([f"run.address: expected nothing or {LOCAL!r} for Slurm, got {address!r}; remove it"])
        if address is None and shutil.which("sbatch") is None:
            raise BadInput(["run.backend: expected the command sbatch of Slurm, got none on this machine; use loky"])
        kind = address or "slurm"
        self._poll_seconds = _POLL_SECONDS[kind]
        self.workers = workers
        self.size = workers if address else 1000  # Slurm's own default limit for an array is 1001
        self.lost: tuple[type[BaseException], ...] = (submitit.core.utils.UncompletedJobError,)
        self._executor: Any = submitit.AutoExecutor(folder=folder / "slurm", cluster=kind)
        limits: dict[str, Any] = {"cpus_per_task": threads, "name": "gradleak"}
        if address is None:
            limits |= {"slurm_array_parallelism": workers, "timeout_min": 60}
        self._executor.update_parameters(**limits | dict(options))
        self._jobs: dict[Future[Results], Any] = {}
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, calls: Sequence[Call]) -> list[Future[Results]]:
        """Hand the calls over as one array."""
        with self._executor.batch():
            jobs = [self._executor.submit(call) for call in calls]
        futures: list[Future[Results]] = [Future() for _ in calls]
        self._jobs |= dict(zip(futures, jobs, strict=True))
        return futures

    def _watch(self) -> None:
        """Fulfill the futures of jobs that have ended."""
        while not self._stop.wait(self._poll_seconds):
            for future, job in list(self._jobs.items()):
                if not job.done():
                    continue
                del self._jobs[future]
                try:
                    future.set_result(job.result())
                # Whatever went wrong belongs to whoever asks for the result.
                except Exception as error:  # noqa: BLE001
                    future.set_exception(error)

    def close(self, *, kill: bool = False) -> None:
        """Stop watching, and cancel what is left."""
        self._stop.set()
        for job in self._jobs.values():
            job.cancel()
