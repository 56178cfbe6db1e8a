"""On what a trial ran, for the record."""

import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

import gradleak
from gradleak.tasks import Task

_PATIENCE_SECONDS = 5.0


def environment(task: Task | None = None, *, command: str | None = None) -> dict[str, str | int | None]:
    """Versions, device, precision, threads, the source's revision if it is run from a checkout, and the command.

    Args:
        task: tells device and precision; None for a trial that never came to a task.
        command: the command line that repeats the trial, if there is one.

    Returns:
        Plain data by name; None where a fact is not known.
    """
    return {
        "gradleak": gradleak.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": None if task is None else _device(task),
        "dtype": None if task is None else str(task.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "revision": _revision(),
        "command": command,
    }


def _device(task: Task) -> str:
    device = task.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@lru_cache(maxsize=1)
def _revision() -> str | None:
    """The git revision of the source, with `-dirty` if files are changed; None for an installed package."""
    root = Path(gradleak.__file__).parents[2]
    git = shutil.which("git")
    # An installed package may lie inside some other project's checkout, whose revision would be a false statement.
    if git is None or not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    try:
        done = subprocess.run(
            [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
