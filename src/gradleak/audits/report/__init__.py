"""The report of a run folder: one HTML file that needs no network, no script and no other file.

Reports read the store and nothing else, so that any report can be rebuilt long after the run.
"""

from pathlib import Path

from gradleak.audits.report.figures import figures
from gradleak.audits.report.page import render
from gradleak.audits.store import Contents, Store

__all__ = ["write_report"]


def write_report(folder: str | Path, contents: Contents | None = None) -> Path:
    """Write the report from the trials that a folder holds, and `pictures/` of those that it shows.

    `report.html` is the whole of it, `summary.html` what fits on one printed page, `report.json` the figures.

    Args:
        folder: holds `trials.jsonl`.
        contents: of that folder, for those who have read it already.

    Returns:
        Where `report.html` is.

    Raises:
        BadInput: when the folder holds no trials, they cannot be read, or the report cannot be written.
    """
    store = Store.open(folder, create=False)
    contents = store.contents() if contents is None else contents
    store.write("report.json", figures(contents))
    store.write("summary.html", render(store, contents, brief=True).encode())
    return store.write("report.html", render(store, contents).encode())
