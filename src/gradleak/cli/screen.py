"""`gradleak screen`: which examples of a data set leak first."""

import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gradleak.cli import loading
from gradleak.cli.clients import client_from_words, settings_of
from gradleak.cli.console import console, errors, facts_table, number, print_json
from gradleak.cli.data_words import dataset_of, task_of
from gradleak.cli.plain_lines import PlainLines
from gradleak.clients import Gradient
from gradleak.errors import refuse

if TYPE_CHECKING:
    from gradleak.audits.screened import ExampleRow, Screened

_EXAMPLES = 1000


def screen_data(
    data: Annotated[str, typer.Option(help="Examples: a name of list data, or a path.")],
    model: loading.ModelName = None,
    weights: loading.WeightsFile = None,
    model_seed: loading.ModelSeed = 0,
    size: Annotated[int | None, typer.Option(help="Pixels per side; images are resized.")] = None,
    mean: loading.Mean = None,
    std: loading.Std = None,
    num_classes: loading.Classes = None,
    dropout: loading.DropoutName = None,
    examples: Annotated[
        int | None, typer.Option(help=f"How many, drawn at random; {_EXAMPLES} or all there are by default.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Noise std on the update: also say what it leaves of each example.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Products for each draw of signs; more are sharper and slower.")] = 8,
    probes: Annotated[int, typer.Option(help="Draws of signs for each example, at least 2.")] = 2,
    show: Annotated[int, typer.Option(help="Examples listed at each end.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the choice of examples and of the signs.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores.csv, scores.jsonl and screening.html, with pictures.")
    ] = None,
    threads: loading.Threads = 1,
    as_json: loading.AsJson = False,
) -> None:
    """Which examples leak first? A risk score for each of thousands, from a few products with the update's Jacobian.

    Score: the noise std on the update above which no unbiased estimate of the example reaches 20 dB. The higher, the
    more an attacker can get. Each example is screened by an update of it alone.
    """
    from gradleak.audits.screened import write_screened

    problems = [
        f"--{name}: expected at least {least}, got {value}; give {least} or more"
        for name, value, least in (("examples", examples, 1), ("steps", steps, 1), ("probes", probes, 2))
        if value is not None and value < least
    ]
    problems += [
        f"--{name}: expected at least 0, got {value}; give 0 or more"
        for name, value in (("seed", seed), ("show", show))
        if value < 0
    ]
    if noise is not None and not 0 < noise < float("inf"):
        problems.append(f"--noise: expected a number above 0, got {noise:g}; leave it out for no noise")
    refuse(problems)
    with loading.torch_threads(threads):
        screened = _screened(
            data,
            size,
            examples,
            (model, weights, model_seed, mean, std, num_classes),
            dropout=dropout,
            noise=noise,
            steps=steps,
            probes=probes,
            seed=seed,
        )
    page = None
    if out is not None:
        page = write_screened(screened, out, command=shlex.join(["gradleak", *sys.argv[1:]]))
    if as_json:
        _print_json(screened, show, page)
    else:
        _print(screened, show, page)


def _screened(
    data: str,
    size: int | None,
    examples: int | None,
    model: tuple[str | None, Path | None, int, str | None, str | None, int | None],
    *,
    dropout: str | None,
    noise: float | None,
    steps: int,
    probes: int,
    seed: int,
) -> "Screened":
    """Load what the words name, and screen it."""
    from gradleak.audits.screened import Screened
    from gradleak.audits.screened.rows import rows_of
    from gradleak.bounds import screen

    dataset = dataset_of("--data", data, size)
    if examples is not None and examples > len(dataset):
        refuse([f"--examples: expected at most {len(dataset)} for {data}, got {examples}; give fewer"])
    task = task_of(dataset, *model)
    client = client_from_words(None, settings_of((), mode=None, dropout=dropout), Gradient())
    positions = dataset.indices(examples or min(_EXAMPLES, len(dataset)), seed)
    inputs, targets = dataset.inputs[positions], dataset.targets[positions]
    with _progress() as notify:
        found = screen(task, inputs, targets, client=client, steps=steps, probes=probes, seed=seed, notify=notify)
    places: list[int] = positions.tolist()
    labels = [dataset.class_names[target] for target in targets.tolist()]
    return Screened(
        model=model[0] or str(model[1]),
        data=dataset.name,
        held=len(dataset),
        rows=rows_of(found, places, labels, noise),
        images=dict(zip(places, inputs, strict=True)),
        bounds=task.space.bounds or (0.0, 1.0),
        noise=noise,
        seed=seed,
        steps=steps,
        probes=probes,
        unknowns=found.unknowns,
        equations=found.equations,
        seconds=found.seconds,
        assumptions=found.assumptions,
    )


@contextmanager
def _progress() -> Generator[Callable[[int, int], None]]:
    """Show how many examples are done, on standard error.

    Yields:
        A function of those and of all.
    """
    if not errors.is_terminal:
        lines = PlainLines()
        yield lambda done, total: lines.show("", f"{done} of {total} examples")
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        job = bar.add_task("examples", total=None)
        yield lambda done, total: bar.update(job, completed=done, total=total, description=f"{done} of {total}")


def _print(screened: "Screened", show: int, page: Path | None) -> None:
    """What the scores are like, then both ends of the list."""
    from gradleak.audits.screened.writing import shown_most

    quantiles = screened.quantiles()
    rate = len(screened.rows) / screened.seconds
    console.print(Text(f"The riskiest example needs noise of std {number(quantiles['most'])}", style="bold"))
    console.print(Text(f"{screened.data}, {len(screened.rows):,} of {screened.held:,} examples, {screened.model}"))
    console.print()
    facts = [("scores", ", ".join(f"{name} {number(value)}" for name, value in quantiles.items()))]
    facts += _facts(screened)
    facts.append(("time", f"{screened.seconds:.1f} s, {rate:.1f} examples a second"))
    console.print(facts_table("screened", facts))
    riskiest, safest = shown_most(screened)
    for title, rows in (("riskiest", riskiest), ("safest", safest)):
        if rows[:show]:
            console.print()
            console.print(_rows(title, rows[:show], ceilings=screened.noise is not None))
    console.print()
    console.print(
        Text(
            "Score: noise std on the update above which no unbiased estimate of the example reaches 20 dB; an update "
            "of each example alone."
        )
    )
    if page is not None:
        console.print(Text(f"{page} shows private examples"), soft_wrap=True)


def _facts(screened: "Screened") -> list[tuple[str, str]]:
    """Lines that are there only sometimes."""
    from gradleak.audits.screened import rank_agreement

    facts: list[tuple[str, str]] = []
    scores = [row.score for row in screened.rows]
    if screened.noise is not None:
        covered = sum(score <= screened.noise for score in scores)
        facts.append((f"noise {number(screened.noise)}", f"is enough for {covered:,} of {len(scores):,}"))
    lost = sum(score != score for score in scores)
    if lost:
        facts.append(("no score", f"{lost:,} updates that are not finite"))
    if len(scores) > 1:
        facts.append(("gradient norm", f"orders otherwise: rank correlation {rank_agreement(screened.rows):.2f}"))
    return facts


def _rows(title: str, rows: "Sequence[ExampleRow]", *, ceilings: bool) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("example", justify="right")
    table.add_column("class", overflow="fold")
    for name in ("score", *(["dB"] if ceilings else []), "by trace", "norm"):
        table.add_column(name, justify="right")
    for row in rows:
        ceiling = [] if row.ceiling is None else [f"{row.ceiling:.1f}"]
        figures = (number(row.score), *ceiling, number(row.trace_score), number(row.gradient_norm))
        table.add_row(str(row.position), Text(row.label), *figures)
    return table


def _print_json(screened: "Screened", show: int, page: Path | None) -> None:
    from gradleak.audits.screened import rank_agreement
    from gradleak.audits.screened.writing import shown_most

    riskiest, safest = shown_most(screened)
    print_json(
        {
            "model": screened.model,
            "data": screened.data,
            "examples": len(screened.rows),
            "noise": screened.noise,
            "scores": screened.quantiles(),
            "rank_agreement_with_norm": rank_agreement(screened.rows),
            "riskiest": [asdict(row) for row in riskiest[:show]],
            "safest": [asdict(row) for row in safest[:show]],
            "seconds": screened.seconds,
            "assumptions": screened.assumptions,
            "page": None if page is None else str(page),
        }
    )
