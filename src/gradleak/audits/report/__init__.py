"""The report of a run folder: one HTML file that needs no network, no script and no other file.

Reports read the store and nothing else, so that any report can be rebuilt long after the run.
"""

from pathlib import Path

from gradleak.audits.report.page import render
from gradleak.audits.store import Store

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Write `report.html` from the trials that a folder holds, and `pictures/` of those that it shows.

    Args:
        folder: holds `trials.jsonl`.

    Returns:
        Where the report is.

    Raises:
        BadInput: when the folder holds no trials, they cannot be read, or the report cannot be written.
    """
    store = Store.open(folder, create=False)
    return store.write("report.html", render(store).encode())
