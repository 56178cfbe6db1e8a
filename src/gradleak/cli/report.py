"""`gradleak report`: rebuild the report of a run folder."""

from pathlib import Path
from typing import Annotated

import typer

from gradleak.audits.report import write_report
from gradleak.audits.store import Store
from gradleak.cli.console import console, errors, print_json


def report(
    folder: Annotated[Path, typer.Argument(help="Run folder that holds trials.jsonl.", metavar="DIR")],
    export: Annotated[
        Path | None,
        typer.Option(
            help="Also write all trials as one flat table, a row for each private example: FILE.csv or FILE.parquet.",
            metavar="FILE",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the path and the verdict as JSON.")] = False,
) -> None:
    """Rebuild report.html from the trials that a run folder holds."""
    store = Store.open(folder, create=False)
    if export is not None:
        store.export(export)
    contents = store.contents()
    path = write_report(folder, contents)
    for warning in contents.warnings:
        errors.print(warning, soft_wrap=True)
    if as_json:
        summary = contents.summary
        print_json(
            {"report": str(path), "verdict": summary.level, "trials": summary.trials, "statuses": summary.statuses}
        )
        return
    console.print(f"{path}: {len(contents.records)} trials", soft_wrap=True)
    if export is not None:
        console.print(f"{export}: the same as a table", soft_wrap=True)
