"""`gradleak demo`: attack real images, or texts, without any argument, file or network."""

import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from gradleak.audits.backends import cores_for
from gradleak.audits.demonstration import Demonstration
from gradleak.audits.merits import PSNR
from gradleak.audits.progress import Progress
from gradleak.audits.report import write_report
from gradleak.audits.run import run_audit
from gradleak.audits.settings import RunSettings
from gradleak.audits.store import Contents, Store
from gradleak.audits.summary import CLOSE_DB, RECOGNIZABLE_DB, BaselineRow, Group, Summary, leak_at
from gradleak.audits.text_demonstration import TextDemonstration
from gradleak.cli.console import console, errors, print_json
from gradleak.cli.demo_text import show_texts

DEFAULT_FOLDER = Path("gradleak-demo")
TEXT_FOLDER = Path("gradleak-demo-text")

# The demo is short; with more processes their start would take longer than it saves.
_MOST_PROCESSES = 4


def demo(
    out: Annotated[
        Path | None,
        typer.Option(help=f"Folder for trials.jsonl and report.html; {DEFAULT_FOLDER} or {TEXT_FOLDER} if not given."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Messages in place of images, from language models.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws images or messages, weights and starts.")] = 0,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Trials that run at the same time; one for each core if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Reconstruct real faces and color photographs from their gradients, in under a minute and offline.

    With --text it recovers messages from the gradients of small language models, in under two minutes.
    """
    usual = TEXT_FOLDER if text else DEFAULT_FOLDER
    command = f"gradleak demo{' --text' if text else ''} --seed {seed}"
    command += "" if out in {None, usual} else f" --out {shlex.quote(str(out))}"
    demonstration = TextDemonstration(seed=seed) if text else Demonstration(seed=seed)
    run_demo(demonstration, out or usual, command=command, processes=processes, as_json=as_json)


def run_demo(
    demonstration: Demonstration | TextDemonstration,
    out: Path,
    *,
    command: str | None = None,
    processes: int | None = None,
    as_json: bool = False,
) -> None:
    """Run what is not yet in the folder, write the report, and print the findings.

    Args:
        demonstration: what to run.
        out: the folder.
        command: the command line that repeats it, for the records.
        processes: trials at the same time; None for one for each core.
        as_json: print JSON instead of tables.

    Raises:
        BadInput: when the folder cannot be written, or holds damaged trials.
    """
    store = Store.open(out)
    contents = store.contents()
    for warning in contents.warnings:
        errors.print(warning, soft_wrap=True)
    wanted = [trial.id for trial in demonstration.plan()]
    missing = len(set(wanted) - contents.finished)
    if missing:
        if missing < len(wanted):
            errors.print(f"Resuming: {missing} trials of this demo are not in {store.folder} yet.", soft_wrap=True)
        _run(demonstration, store, missing, command, processes)
    else:
        errors.print(f"{out} already holds this demo, finished: only the report is rebuilt.", soft_wrap=True)
    report = write_report(out)
    records = {record.id: record for record in store.records()}
    own = Contents(tuple(records[identity] for identity in wanted))
    if as_json:
        print_json(_plain(own, report))
    elif isinstance(demonstration, TextDemonstration):
        show_texts(own, store, report)
    else:
        _show(own.summary, own.records[0].threat, report)


def _run(
    demonstration: Demonstration | TextDemonstration,
    store: Store,
    missing: int,
    command: str | None,
    processes: int | None,
) -> None:
    """Run the missing trials."""
    count = min(_MOST_PROCESSES, cores_for(1)) if processes is None else processes
    count = min(count, missing)
    # A single worker would be started for nothing but to be waited for.
    settings = RunSettings(backend="loky" if count > 1 else "inprocess", workers=count, errors=None)
    outcome = run_audit(
        demonstration.plan(),
        store,
        settings,
        retry_errors=True,
        command=command,
        notify=lambda progress: _tell(progress, missing),
        build=demonstration.build,
    )
    if outcome.stopped:
        errors.print(outcome.stopped[0].upper() + outcome.stopped[1:], soft_wrap=True)
        raise typer.Exit(3)


def _tell(progress: Progress, total: int) -> None:
    """One line for each trial."""
    record = progress.record
    if record is None:
        errors.print(progress.note, soft_wrap=True)
        return
    merit = record.merit
    found = ", ".join(merit.number(value) if value == value else "-" for value in record.leakage)
    what = f"{record.attack} on {record.data} {', '.join(map(str, record.examples))}"
    errors.print(
        f"{total - progress.left:2d}/{total}  {what:<24} {found:>6}{merit.unit and f' {merit.unit}'}  "
        f"{record.seconds:5.1f} s  "
        f"{_last_clause(record.message)}",
        soft_wrap=True,
    )


def _show(summary: Summary, threat: str, report: Path) -> None:
    """Verdict, table with baselines, threat model and paths."""
    console.print()
    console.print(
        f"[bold]{summary.above(CLOSE_DB)} of {len(summary.images)} private images were reconstructed almost "
        f"exactly[/bold] ({CLOSE_DB:.0f} dB or more),"
    )
    console.print(
        f"{summary.above(RECOGNIZABLE_DB)} recognizably ({RECOGNIZABLE_DB:.0f} dB or more). "
        f"Worst case {_db(summary.best.worst)} dB, median image {_db(summary.best.median)} dB."
    )
    console.print()
    console.print(f"Attacker: {threat}")
    console.print("Model:    LeNet of the DLG paper, weights from U(-0.5, 0.5), single images")
    console.print("Data:     drawn at random; the faces have random identities as labels")
    console.print(_table(summary))
    console.print("In brackets: answers that never saw the update.")
    failed = summary.trials - summary.statuses.get("converged", 0)
    if failed:
        console.print(
            f"{failed} of {summary.trials} trials did not reproduce the update. A failed attack is not an absent leak."
        )
    console.print(f"Report: {report}", soft_wrap=True)


def _table(summary: Summary) -> Table:
    """Attacks and, dimmed below them, answers that never saw the update; at most 80 columns wide."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("attack (PSNR in dB)", no_wrap=True)
    for heading in ("worst", "median", "SSIM", f">={CLOSE_DB:.0f} dB", "labels", "evals", "sec"):
        table.add_column(heading, justify="right")
    groups = summary.groups
    for position, group in enumerate(groups):
        if position == 0 or groups[position - 1].data != group.data:
            table.add_row(f"[bold]{escape(group.data)}[/bold]")
        _add_attack(table, group)
        if position + 1 == len(groups) or groups[position + 1].data != group.data:
            for row in group.baselines:
                _add_baseline(table, row)
            table.add_section()
    return table


def _add_attack(table: Table, group: Group) -> None:
    labels = group.targets_correct
    table.add_row(
        f"  {group.attack}",
        _db(group.psnr.worst),
        _db(group.psnr.median),
        f"{group.ssim.median:.3f}",
        f"{leak_at(group.leaks, CLOSE_DB).images}/{group.images}",
        "given" if labels is None else f"{labels.successes}/{labels.trials}",
        f"{group.evaluations:.0f}",
        f"{group.seconds:.1f}",
    )


def _add_baseline(table: Table, row: BaselineRow) -> None:
    table.add_row(
        f"  ({row.name.replace('_', ' ')})",
        _db(row.psnr.worst),
        _db(row.psnr.median),
        f"{row.ssim.median:.3f}",
        f"{leak_at(row.leaks, CLOSE_DB).images}/{leak_at(row.leaks, CLOSE_DB).of}",
        style="dim",
    )


def _db(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _plain(contents: Contents, report: Path) -> dict[str, Any]:
    """What `--json` prints."""
    summary = contents.summary
    figures: dict[str, Any] = {
        "images": len(summary.images),
        "above_20_db": summary.above(RECOGNIZABLE_DB),
        "above_30_db": summary.above(CLOSE_DB),
        "worst_psnr": summary.best.worst,
        "median_psnr": summary.best.median,
    }
    if summary.merit != PSNR:
        figures = {
            "texts": len(summary.own),
            "word_for_word": summary.exact,
            "half_of_tokens": summary.above(summary.merit.recognizable),
            "worst_token_accuracy": summary.best.worst,
            "median_token_accuracy": summary.best.median,
        }
    return {
        "report": str(report),
        "verdict": summary.level,
        **figures,
        "statuses": summary.statuses,
        "trials": [
            {
                "id": record.id,
                "data": record.data,
                "attack": record.attack,
                "examples": record.examples,
                "status": record.status,
                "threat": record.threat,
                "scores": record.scores,
                "baselines": record.baselines,
                "evaluations": record.evaluations,
                "seconds": record.seconds,
            }
            for record in contents.records
        ],
    }


def _last_clause(message: str) -> str:
    """What became of it, without the account of a closed form's equations."""
    return message.rsplit("; ", 1)[-1]
