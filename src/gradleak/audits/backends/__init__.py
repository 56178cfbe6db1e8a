"""Where trials run: one file for each kind of place, and one line here.

Each is a pool that takes calls and gives futures (see `protocol.Pool`). Optional packages are imported when their pool
is opened.
"""

from pathlib import Path

from gradleak.audits.backends.dask import DaskPool
from gradleak.audits.backends.inprocess import InProcessPool
from gradleak.audits.backends.loky import LokyPool
from gradleak.audits.backends.protocol import Pool
from gradleak.audits.backends.ray import RayPool
from gradleak.audits.backends.slurm import SlurmPool
from gradleak.audits.settings import RunSettings
from gradleak.errors import BadInput

__all__ = ["Pool", "cores_for", "open_pool"]


def open_pool(settings: RunSettings, folder: Path) -> Pool:
    """Start or reach the workers.

    Args:
        settings: which kind, how many, and where.
        folder: of the run, for files on their way.

    Returns:
        The pool; its user closes it.

    Raises:
        BadInput: when an optional package is missing, a cluster does not answer, or an address is given to a backend
            that has none.
    """
    workers, threads, address = settings.workers, settings.threads, settings.address
    match settings.backend:
        case "dask":
            return DaskPool(workers if workers or address else cores_for(threads), threads, address)
        case "ray":
            return RayPool(workers if workers or address else cores_for(threads), threads, address)
        case "slurm":
            return SlurmPool(workers or cores_for(threads), threads, folder, address, settings.slurm)
        case "inprocess" | "loky" if address is not None:
            raise BadInput([f"run.address: expected none for {settings.backend}, got {address!r}; remove it"])
        case "inprocess":
            return InProcessPool()
        case "loky":
            return LokyPool(workers or cores_for(threads), threads, folder)


def cores_for(threads: int) -> int:
    """How many workers of so many threads fit on this machine's cores, at least one."""
    from joblib import cpu_count

    return max(1, cpu_count() // threads)
