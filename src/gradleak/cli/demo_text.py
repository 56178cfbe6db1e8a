"""What `gradleak demo --text` prints: how many messages came back, and some of them beside the private ones."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gradleak.audits.merits import TOKEN_ACCURACY
from gradleak.audits.records import TrialRecord, mapping
from gradleak.audits.report.words import baseline
from gradleak.audits.store import Contents, Store
from gradleak.audits.summary import BaselineRow, Group, Summary
from gradleak.audits.texts import Run, compared
from gradleak.cli.console import console

SHOWN = 4
"""Messages of each model and attack that are printed; the report has more."""


def show_texts(own: Contents, store: Store, report: Path) -> None:
    """Verdict, messages side by side, table with baselines, threat model and paths; for 60 columns and more.

    Args:
        own: the trials.
        store: holds their texts.
        report: its path.
    """
    summary = own.summary
    merit = TOKEN_ACCURACY
    console.print()
    console.print(f"[bold]{summary.exact} of {len(summary.own)} private messages were recovered word for word[/bold],")
    console.print(
        f"{summary.above(merit.recognizable)} with at least half of their tokens in place. Worst case token accuracy "
        f"{_number(summary.best.worst)}, median message {_number(summary.best.median)}."
    )
    console.print()
    console.print(f"Attacker: {own.records[0].threat}")
    console.print("Models:   small transformers with random weights, as before the first step of training")
    console.print("Data:     messages drawn at random from the bundled ones, written for this package")
    console.print()
    console.print(_side_by_side(own.records, store))
    console.print(Text("[so]: a wrong token; _: nothing was recovered here. All else is right."))
    console.print(_table(summary))
    console.print("In place, in set: share of the tokens at their position, and anywhere. Whole: word for word.")
    console.print("In brackets: answers that never saw the update.")
    failed = summary.trials - summary.statuses.get("converged", 0)
    if failed:
        console.print(
            f"{failed} of {summary.trials} trials did not reproduce the update. A failed attack is not an absent leak."
        )
    console.print(f"Report: {report}", soft_wrap=True)


def _side_by_side(records: Sequence[TrialRecord], store: Store) -> Table:
    """The first messages of each model and attack, which the seed has put in a random order."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("private message", overflow="fold", ratio=1)
    table.add_column("recovered", overflow="fold", ratio=1)
    shown: dict[tuple[str, str], int] = {}
    places = list(dict.fromkeys(map(_place, records)))
    for record in sorted(records, key=lambda one: places.index(_place(one))):
        texts, place = store.texts(record), _place(record)
        if texts is None:
            continue
        for truth, recovered in zip(texts.truth, texts.recovered, strict=True):
            count = shown.get(place, 0)
            if count == SHOWN:
                break
            if count == 0:
                table.add_section()
                table.add_row(f"[bold]{escape(place[0])}[/bold]", f"[bold]{escape(place[1])}[/bold]")
            shown[place] = count + 1
            left, right = compared(truth, recovered)
            table.add_row(Text("".join(run.text for run in left).strip()), marked(right))
    return table


def marked(runs: Sequence[Run]) -> Text:
    """A recovered text whose differences can be seen without color."""
    shown = Text()
    for run in runs:
        if run.kind == "missing":
            shown.append(" _ ", style="dim")
        elif run.kind == "wrong":
            shown.append(run.space)
            shown.append(f"[{run.words}]", style="red")
        else:
            shown.append(run.text)
    return shown[len(shown.plain) - len(shown.plain.lstrip()) :]


def _place(record: TrialRecord) -> tuple[str, str]:
    return _model(mapping(record.spec.get("model")).get("name"), record.batch_size), record.attack


def _model(name: object, batch_size: object) -> str:
    return f"{name}, N = {batch_size}"


def _table(summary: Summary) -> Table:
    """Attacks and, dimmed below them, answers that never saw the update; at most 60 columns wide."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("attack (medians)", no_wrap=True)
    for heading in ("in place", "in set", "ROUGE-L", "whole", "sec"):
        table.add_column(heading, justify="right")
    groups = summary.groups
    for position, group in enumerate(groups):
        place = _model(group.settings.get("model.name"), group.batch_size)
        others = [
            _model(groups[other].settings.get("model.name"), groups[other].batch_size)
            if 0 <= other < len(groups)
            else ""
            for other in (position - 1, position + 1)
        ]
        if others[0] != place:
            table.add_row(f"[bold]{escape(place)}[/bold]")
        table.add_row(f"  {group.attack}", *_cells(group), f"{group.exact}/{group.images}", f"{group.seconds:.1f}")
        if others[1] != place:
            for row in group.baselines:
                words = f"  ({baseline(row.name, 'message').replace('most frequent', 'frequent')})"
                table.add_row(words, *_cells(row), f"{row.exact}/{row.leakage.scored}", "", style="dim")
            table.add_section()
    return table


def _cells(row: Group | BaselineRow) -> list[str]:
    return [_number(row.spread(score).median) for score in ("token_accuracy", "token_recall", "rougeL")]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
