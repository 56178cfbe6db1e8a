"""`gradleak bench`: the package's attacks and the published loops, side by side on the same captures."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from gradleak.bench import NETS, Contest, Row, contestants, run_contest
from gradleak.bench.contest import SUCCESS_DB
from gradleak.cli.console import console, errors, print_json
from gradleak.cli.loading import AsJson, Threads, torch_threads
from gradleak.errors import BadInput
from gradleak.threat import ThreatModel
from gradleak.zoo.data import load


def bench(
    net: Annotated[str, typer.Option(help="Network: " + ", ".join(NETS) + ".")] = "sigmoid-uniform",
    attacks: Annotated[str, typer.Option(help="Contestants, separated by commas.")] = "auto,released-dlg",
    data: Annotated[str, typer.Option(help="Bundled name, folder, tar or file of images.")] = "photographs",
    trials: Annotated[int, typer.Option(min=1, help="Captures: each its own batch, network and start.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of one capture.")] = 1,
    repeated_labels: Annotated[bool, typer.Option("--repeated-labels", help="Labels of a batch may repeat.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Trial k uses seed + k.")] = 0,
    max_seconds: Annotated[float, typer.Option(help="For each attack of the package.")] = 60.0,
    outer_steps: Annotated[int, typer.Option(min=1, help="Of the released DLG loop.")] = 300,
    iterations: Annotated[int, typer.Option(min=1, help="Of the released Inverting Gradients loop.")] = 4800,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Compare attacks in one process, in turn, on the same images, networks and seeds; labels are unknown."""
    contest = Contest(
        net, trials, batch_size, not repeated_labels, seed, max_seconds, outer_steps=outer_steps, iterations=iterations
    )
    names = _checked(contest, attacks)
    dataset = load(data).resized(32)
    rows: list[Row] = []
    with torch_threads(threads):
        for row in run_contest(contest, names, dataset):
            rows.append(row)
            errors.print(
                f"trial {row.trial:3d}  {row.attack:28s} {statistics.median(row.psnr):7.2f} dB  {row.evaluations:6d} "
                f"evaluations  {row.seconds:7.2f} s  {row.status}",
                soft_wrap=True,
            )
    if as_json:
        print_json({"contest": asdict(contest), "data": dataset.name, "rows": [asdict(row) for row in rows]})
    else:
        _print(contest, data, names, rows)


def _checked(contest: Contest, attacks: str) -> tuple[str, ...]:
    known = contestants(contest)
    names = tuple(name.strip() for name in attacks.split(","))
    problems = [
        f"--attacks: expected names among {', '.join(known)}, got {name!r}; correct it"
        for name in names
        if name not in known
    ]
    if contest.net not in NETS:
        problems.append(f"--net: expected one of {', '.join(NETS)}, got {contest.net!r}; choose one")
    if problems:
        raise BadInput(problems)
    return names


def _print(contest: Contest, data: str, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Medians, quartiles, success rates and ratios to the last contestant."""
    table = Table(
        box=None,
        padding=(0, 1, 0, 0),
        title=f"{contest.net}, N = {contest.batch_size}, {contest.trials} captures of {data}",
    )
    table.add_column("attack", no_wrap=True, overflow="fold")
    for heading in ("median dB", "quartiles", "least", f">={SUCCESS_DB:g} dB", "evals", "to 30", "s", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    slowest = statistics.median(row.seconds for row in rows if row.attack == names[-1])
    for name in names:
        own = [row for row in rows if row.attack == name]
        table.add_row(name, *_cells(own, slowest))
    console.print(table)
    console.print(f"threat model: {ThreatModel().describe()}; ratio: seconds of {names[-1]} over the attack's own")
    if "released-ig" in names and contest.batch_size > 1:
        console.print("released-ig alone is given the labels of its batches, as published")


def _cells(rows: Sequence[Row], slowest: float) -> tuple[str, ...]:
    psnr = sorted(value for row in rows for value in row.psnr)
    low, median, high = statistics.quantiles(psnr, n=4) if len(psnr) > 1 else (psnr[0],) * 3
    hits = sum(value >= SUCCESS_DB for value in psnr)
    to_success = [row.evaluations_to_success for row in rows if row.evaluations_to_success is not None]
    seconds = statistics.median(row.seconds for row in rows)
    return (
        f"{median:.1f}",
        f"{low:.0f}-{high:.0f}",
        f"{psnr[0]:.1f}",
        f"{hits}/{len(psnr)}",
        f"{statistics.median(row.evaluations for row in rows):.0f}",
        f"{statistics.median(to_success):.0f}" if to_success else "never",
        f"{seconds:.2f}",
        f"{slowest / seconds:.1f}",
    )
