"""Does it protect? Runs the shipped curves and writes a page with table, plot and answer for each.

    python benchmarks/curves.py --runs runs --trials 20 --seconds 15 --workers 2 --data cifar10-test.tar
    python benchmarks/curves.py --runs runs --only layers --set 'layers:model.settings.initialization=default'

Each curve is the audit of the same name in a folder of its own under `--runs`, so it can be stopped at any moment and
goes on with the same command; `--pages` writes the pages from what the folders hold and runs nothing. A page is made
anew each time, but for what stands in it between `<!-- findings -->` and `<!-- /findings -->`.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradleak as gl
from gradleak.audits.audit import DeclaredAudit, declare
from gradleak.audits.declared import SPEC_FILE
from gradleak.audits.progress import Progress
from gradleak.audits.reading import read_source, shipped_specs
from gradleak.audits.report.curves import Curves, axis_curves, layer_curves
from gradleak.audits.report.standalone import standalone
from gradleak.audits.store import Contents, Store

CURVES = ("training-stages", "large-batches", "width-depth", "local-steps", "aggregation", "layers")
START, END = "<!-- findings -->", "<!-- /findings -->"
LARGEST_PLOT = 60_000
"""Bytes of a picture in the documentation."""


def overrides(name: str, options: argparse.Namespace) -> list[str]:
    """What the command line changes in one spec."""
    attacks = read_source(name)[0].value["attack"]
    found = [f"run.workers={options.workers}"] if options.workers else []
    if options.trials:
        found.append(f"trials={options.trials}")
    if options.data:
        found.append(f"data.name={options.data}")
    if options.seconds:
        places = [f"attack.{position}" for position in range(len(attacks))] if isinstance(attacks, list) else ["attack"]
        found += [f"{place}.max_seconds={options.seconds}" for place in places]
    for assignment in options.set:
        own, colon, rest = assignment.partition(":")
        if not colon or own not in CURVES:
            raise SystemExit(f"--set {assignment}: expected NAME:path=value with NAME one of {', '.join(CURVES)}")
        found += [rest] if own == name else []
    return found


def teller(name: str, every: float = 30.0) -> Callable[[Progress], None]:
    """One line now and then."""
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        if progress.note or time.monotonic() - last > every or not progress.left:
            last = time.monotonic()
            left = "" if progress.left_seconds is None else f", about {progress.left_seconds:.0f} s left"
            print(f"{name}: {progress.stored} of {progress.planned} trials{left} {progress.note}", flush=True)

    return tell


def contents_of(folder: Path, declared: DeclaredAudit) -> Contents:
    """The trials of the last run in a folder; those of earlier ones with other settings are left out."""
    contents = Store.open(folder, create=False).contents()
    planned = {trial.id for trial in declared.planned}
    return replace(contents, records=tuple(record for record in contents.records if record.id in planned))


def write_plots(name: str, curves: Sequence[Curves], results: Path) -> list[str]:
    """Files beside the page.

    Returns:
        A line of Markdown for each.
    """
    lines: list[str] = []
    for position, one in enumerate(curves, start=1):
        plot = one.plots[0]
        file = results / f"{name}-{position}.svg"
        text = standalone(plot.svg)
        if len(text.encode()) > LARGEST_PLOT:
            print(f"{file}: {len(text.encode())} bytes are too many, left out")
            continue
        file.write_text(text, encoding="utf-8")
        lines.append(f"![{escaped(plot.label)}]({file.name})\n\n*{escaped(one.title)}. {plot.caption}*")
    return lines


def shared(assignment: str) -> str:
    """An override as others can use it: files by their name alone."""
    return re.sub(r"(?<=[=\s])/\S*/(?=[^/\s]+)", "", assignment)


def escaped(text: str) -> str:
    """Text in which a star is a star."""
    return text.replace("*", "\\*")


def findings(page: Path) -> str:
    """What people wrote about the last figures."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    inside = text.partition(START)[2].partition(END)[0].strip()
    return f"{START}\n{inside}\n{END}" if inside else f"{START}\n{END}"


def write_page(name: str, folder: Path, results: Path, command: Sequence[str]) -> Path:
    """One page of results from one folder."""
    results.mkdir(parents=True, exist_ok=True)
    declared = declare(folder / SPEC_FILE)
    contents = contents_of(folder, declared)
    attacks = dict.fromkeys(record.attack for record in contents.records)
    curves = axis_curves(contents, {one: number for number, one in enumerate(attacks, start=1)}, legend=True)
    layers = layer_curves(contents.records, legend=True) if name == "layers" else []
    environments: list[dict[str, Any]] = [record.environment for record in contents.records[:1]]
    machine = ", ".join(
        f"{key} {environments[0][key]}" for key in ("torch", "device", "threads") if key in environments[0]
    )
    data = ", ".join(dict.fromkeys(record.data for record in contents.records))
    threat = "; ".join(dict.fromkeys(record.threat for record in contents.records))
    parts = [
        # The rest of the comment says what the shipped spec runs, which options may have changed.
        f"# {declared.comment.partition('?')[0].rstrip('.')}?",
        f"*{len(contents.records)} trials on random images of {data}; {machine}. Threat model: {threat}.*",
        f"```console\n$ gradleak audit {name} --out DIR {' '.join(f'--set {one!r}' for one in command)}\n```",
        *(f"**{escaped(answer)}**" for one in curves for answer in one.answers),
        findings(page := results / f"{name}.md"),
        *write_plots(name, [*curves, *layers], results),
        *(f"## Over {one.table.header[0]}\n\n{escaped(one.table.markdown())}" for one in curves if one.table),
        "A success is a captured batch of which at least one image reached the threshold and came closer than every "
        "answer that never saw the update; intervals of rates are Wilson's, 95 %; "
        "medians are over images, with intervals from resampled batches. Seconds and evaluations are medians over "
        "trials. An answer without the update is scored on the same images: a gray card, the mean color, the mean of "
        "the data set, another image.",
    ]
    page.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CURVES, help="one curve; may be repeated; default all")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the folders of the audits are")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="where the pages are written")
    parser.add_argument("--trials", type=int, help="captured batches for each point")
    parser.add_argument("--seconds", type=float, help="of every attack")
    parser.add_argument("--data", help="bundled name, folder, tar, .npz or IDX file in place of the bundled data")
    parser.add_argument("--workers", type=int, help="processes; default one for each core")
    parser.add_argument("--set", action="append", default=[], metavar="NAME:path=value", help="for one of the curves")
    parser.add_argument("--pages", action="store_true", help="run nothing, write the pages")
    options = parser.parse_args()
    known = shipped_specs()
    for name in options.only or [name for name in CURVES if name in known]:
        folder, changes = options.runs / name, overrides(name, options)
        if not options.pages:
            outcome = gl.audit(name, out=folder, overrides=changes, notify=teller(name))
            print(f"{name}: {outcome.finished} of {outcome.planned} trials have a result {outcome.stopped}", flush=True)
        if (folder / SPEC_FILE).exists():
            page = write_page(
                name, folder, options.results, [one for one in map(shared, changes) if not one.startswith("run.")]
            )
            print(f"{name}: {page}", flush=True)
            for line in page.read_text(encoding="utf-8").splitlines():
                if line.startswith("**"):
                    print(f"  {line.strip('*')}", flush=True)


if __name__ == "__main__":
    main()
