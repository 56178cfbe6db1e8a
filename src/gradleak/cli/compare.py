"""`gradleak compare`: what changed between two audits."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from gradleak.audits.compare import Change, Comparison, compare
from gradleak.audits.store import Store
from gradleak.audits.summary import Group
from gradleak.cli.console import console, errors, print_json
from gradleak.cli.loading import AsJson

_WORDS = {"leak": "leak", "partial": "leak", "none": "no leak found", "unknown": "no verdict"}


def compare_folders(
    before: Annotated[Path, typer.Argument(help="Run folder of one audit.", metavar="DIR_A")],
    after: Annotated[Path, typer.Argument(help="Run folder of the other.", metavar="DIR_B")],
    as_json: AsJson = False,
) -> None:
    """Show what changed between two audits: verdict, scores on the same batches, settings and versions."""
    records = []
    for folder in (before, after):
        contents = Store.open(folder, create=False).contents()
        for warning in contents.warnings:
            errors.print(f"{folder}: {warning}", soft_wrap=True)
        records.append(contents.records)
    found = compare(records[0], records[1])
    if as_json:
        print_json(_plain(found))
    else:
        _show(found, before, after)


def _show(found: Comparison, before: Path, after: Path) -> None:
    own, other = (_WORDS[level] for level in found.levels)
    console.print(f"[bold]Verdict: {own if own == other else f'{own} -> {other}'}[/bold]")
    if found.changes:
        for change in found.changes:
            _print_change(change)
        console.print("Change: median over the private examples that both attacked, with its 95 % interval.")
    else:
        console.print("The two have no setting in common.")
    for folder, groups in ((before, found.only_before), (after, found.only_after)):
        for group in groups:
            console.print(f"only in {escape(str(folder))}: {escape(_title(group))}", soft_wrap=True)
    for name, (one, two) in found.environments.items():
        console.print(f"{name}: {escape(', '.join(one))} -> {escape(', '.join(two))}", soft_wrap=True)


def _print_change(change: Change) -> None:
    """One setting: its name, and below it what moved; narrow terminals show it as well."""
    style = {"more": "red", "less": "green", "same": ""}[change.direction]
    merit = change.before.merit

    def signed(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:+.{merit.digits}f}"

    def plain(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.{merit.digits}f}"

    unit = merit.unit or merit.word
    moved = "identical" if change.identical else f"{signed(change.median)} {unit}"
    interval = "" if change.identical or math.isnan(change.low) else f" ({signed(change.low)} to {signed(change.high)})"
    before, after = change.before.leakage, change.after.leakage
    console.print(Text(_title(change.before), style="bold"), soft_wrap=True)
    console.print(f"  median   {plain(before.median)} -> {plain(after.median)} {unit}")
    console.print(f"  worst    {plain(before.worst)} -> {plain(after.worst)} {unit}")
    console.print(Text(f"  change   {moved}{interval}, {change.captures} captured batches", style=style))


def _title(group: Group) -> str:
    model = group.settings.get("model.name", "")
    parts = [group.attack, str(model), group.data, f"N={group.batch_size}", group.client, group.defenses]
    return ", ".join(part for part in parts if part)


def _plain(found: Comparison) -> dict[str, Any]:
    return {
        "verdicts": list(found.levels),
        "changes": [
            {
                "settings": dict(change.before.settings),
                f"median_{change.before.score}": [change.before.leakage.median, change.after.leakage.median],
                f"worst_{change.before.score}": [change.before.leakage.worst, change.after.leakage.worst],
                "change": change.median,
                "interval": [change.low, change.high],
                "captures": change.captures,
                "direction": change.direction,
                "identical": change.identical,
            }
            for change in found.changes
        ],
        "only_before": [dict(group.settings) for group in found.only_before],
        "only_after": [dict(group.settings) for group in found.only_after],
        "environments": {name: [list(one), list(two)] for name, (one, two) in found.environments.items()},
    }
