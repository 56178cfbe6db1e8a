"""Where and how the trials of an audit run; nothing here changes their outcome."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

BackendName = Literal["inprocess", "loky", "dask", "ray", "slurm"]


class RunSettings(BaseModel):
    """The `run:` part of a spec.

    Attributes:
        backend: `inprocess` runs the trials one after the other in the calling process; `loky` in worker processes of
            this machine; `dask` and `ray` on a cluster; `slurm` as job arrays.
        workers: trials that run at the same time; None for one for each `threads` cores of this machine, or all that
            a cluster has.
        threads: torch and BLAS threads of each worker.
        errors: so many failed trials end the run; None for no end.
        address: of a running dask or ray cluster, started for this run if it is None. For `slurm` only `local`, which
            runs the jobs on this machine without Slurm.
        slurm: settings of a job as submitit names them, such as `{"slurm_partition": "gpu", "timeout_min": 120}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: BackendName = "loky"
    workers: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    errors: Annotated[int, Field(ge=1)] | None = 10
    address: str | None = None
    slurm: dict[str, str | int | bool] = {}
