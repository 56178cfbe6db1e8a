"""`gradleak audit`: run a declared grid of trials, or say what it would be."""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gradleak.audits.audit import DeclaredAudit, declare, run_declared, run_declared_prices, train_models
from gradleak.audits.estimate import TimeEstimate, estimate
from gradleak.audits.files import write_whole
from gradleak.audits.junit import junit_xml
from gradleak.audits.limits import Checked
from gradleak.audits.prices import PriceOutcome
from gradleak.audits.records import TrialRecord, plain, settings_text
from gradleak.audits.report import write_report
from gradleak.audits.report.figures import bound_figures, frontier_figures
from gradleak.audits.report.words import cell, verdict
from gradleak.audits.spec import AuditSpec, Component, DataSpec, ModelSpec, PerClient
from gradleak.audits.store import Contents, Store
from gradleak.cli.audit_bounds import bound_facts, bound_lines, compute_bounds, print_bounds
from gradleak.cli.audit_progress import progress_lines
from gradleak.cli.console import console, duration, errors, print_json
from gradleak.cli.loading import AsJson
from gradleak.cli.train_progress import training_lines
from gradleak.errors import BadInput, refuse

if TYPE_CHECKING:
    from gradleak.audits.run import AuditOutcome

EXCEEDED, INCOMPLETE = 1, 3


def audit(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or a name of list specs.")],
    out: Annotated[Path | None, typer.Option(help="Folder for trials.jsonl, images and report.html.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Replace a value of the spec; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Short for --set model=...: package.module:factory or a name.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Short for --set data.name=...: a folder, a file or a name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print grid, size and time, and run nothing.")] = False,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Run failed trials again.")] = False,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write limits and failed trials as JUnit XML, for CI.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a declared grid of trials; the same command goes on where it stopped.

    Exit codes: 0 every trial has a result and every limit is kept, 1 a limit of the spec is exceeded, 2 a mistake in
    the spec, 3 trials are missing or failed (1 if what there is leaked too much already).
    """
    overrides = [
        *([] if model is None else [f"model={json.dumps(model)}"]),
        *([] if data is None else [f"data.name={json.dumps(data)}"]),
        *(assignments or []),
    ]
    refuse([] if dry_run or out is not None else ["--out: expected a folder for the results, got none; add --out DIR"])
    declared = declare(spec, overrides, out)
    if dry_run or out is None:
        _print_plan(declared, out, as_json=as_json)
        return
    command = shlex.join(["gradleak", *sys.argv[1:]])
    if declared.pending:
        _train_first(declared, command)
        declared = declare(spec, overrides, out)
    with progress_lines() as notify:
        outcome = run_declared(declared, out, retry_errors=retry_errors, command=command, notify=notify)
    if declared.bounds and not outcome.stopped:
        outcome = compute_bounds(declared, out, outcome, command, retry_errors=retry_errors)
    if declared.prices and not outcome.stopped:
        outcome = _learn_prices(declared, out, outcome, command, retry_errors=retry_errors)
    contents = Store(out).contents()
    report = _report(outcome, out, contents)
    planned = {trial.id for trial in declared.planned}
    own = replace(contents, records=tuple(record for record in contents.records if record.id in planned))
    if junit is not None:
        write_whole(junit, junit_xml(declared.spec.name, own.limits, own.records, outcome.missing))
    _print_outcome(outcome, own, report, command, as_json=as_json)
    _leave(outcome, own.limits)


def _train_first(declared: DeclaredAudit, command: str) -> None:
    """Train the models of the audit.

    Raises:
        Exit: when a training was interrupted or diverged.
    """
    names = ", ".join(training.declared.spec.name for training in declared.pending)
    errors.print(Text(f"Training comes first: {names}"), soft_wrap=True)
    with training_lines() as show:
        ended = train_models(declared, show)
    if ended is not None:
        errors.print(Text(ended.message), soft_wrap=True)
        if ended.status == "interrupted":
            errors.print(Text(f"Nothing is lost. Go on with: {command}"), soft_wrap=True)
        raise typer.Exit(INCOMPLETE)


def _learn_prices(
    declared: DeclaredAudit, out: Path, outcome: "AuditOutcome", command: str, *, retry_errors: bool
) -> "AuditOutcome":
    """Train the settings of the audit.

    Returns:
        The outcome of the trials, stopped if the trainings were interrupted.

    Raises:
        BadInput: when the folder cannot be used.
    """
    left = len(declared.prices)
    errors.print(f"What the settings cost: {left} short trainings", soft_wrap=True)
    with training_lines() as show:
        found: PriceOutcome = run_declared_prices(declared, out, retry_errors=retry_errors, notify=show)
    if found.out_of_time:
        words = f"{found.done} of {found.planned} trainings fit in price.max_seconds; go on with: {command}"
        errors.print(Text(words), soft_wrap=True)
    if found.interrupted:
        stopped = f"interrupted after {found.done} of {found.planned} trainings. Nothing is lost; go on with: {command}"
        return replace(outcome, interrupted=True, stopped=stopped)
    return outcome


def _report(outcome: "AuditOutcome", out: Path, contents: Contents) -> Path | None:
    """Write the report of what is there.

    Returns:
        Where it is; None if a run that ended early left no room or nothing for one.

    Raises:
        BadInput: when a run that came to its end has no report.
    """
    try:
        return write_report(out, contents)
    except BadInput as error:
        if not outcome.stopped:
            raise
        for problem in error.problems:
            errors.print(Text(f"No report: {problem}"), soft_wrap=True)
        return None


def _leave(outcome: "AuditOutcome", limits: Sequence[Checked]) -> None:
    """End the program with the exit code of the outcome.

    Raises:
        Exit: when a limit is exceeded or a trial has no result.
    """
    exceeded = [one for one in limits if one.state == "exceeded"]
    if any(one.leaked.successes for one in exceeded):
        raise typer.Exit(EXCEEDED)
    if not outcome.complete or outcome.interrupted or any(one.state == "missing" for one in limits):
        raise typer.Exit(INCOMPLETE)
    if exceeded:
        raise typer.Exit(EXCEEDED)


def _print_outcome(
    outcome: "AuditOutcome", contents: Contents, report: Path | None, command: str, *, as_json: bool
) -> None:
    """What was found, what became of the trials, and what to do next."""
    summary = contents.summary
    if as_json:
        facts = ("planned", "finished", "errors", "missing", "interrupted", "stopped")
        limits = [{**asdict(one), "state": one.state, "words": one.describe()} for one in contents.limits]
        print_json(
            {
                "report": None if report is None else str(report),
                **{name: getattr(outcome, name) for name in facts},
                "verdict": summary.level,
                "limits": limits,
                "frontiers": plain(frontier_figures(contents), "frontiers"),
                "bounds": plain(bound_figures(contents), "bounds"),
            }
        )
        return
    found = verdict(summary)
    console.print()
    console.print(Text(f"{found.badge}: {found.headline}", style="bold"), soft_wrap=True)
    for finding in found.findings:
        console.print(Text(f"- {finding}"), soft_wrap=True)
    print_bounds(contents)
    for frontier in contents.frontiers:
        if len(contents.frontiers) > 1:
            console.print(Text(f"{frontier.title}:"), soft_wrap=True)
        for sentence in frontier.recommendation:
            console.print(Text(f"> {sentence}"), soft_wrap=True)
    for one in contents.limits:
        console.print(Text(f"Limit {one.state}: {cell(one.cell)}: {one.describe()}"), soft_wrap=True)
    console.print(f"{outcome.finished} of {outcome.planned} trials have a result")
    if report is not None:
        console.print(Text(f"Report: {report}"), soft_wrap=True)
    if outcome.errors:
        line = f"{outcome.errors} failed: their tracebacks are in the report; try them again with --retry-errors"
        errors.print(line, soft_wrap=True)
    if outcome.stopped:
        errors.print(Text(f"Stopped: {outcome.stopped}"), soft_wrap=True)
    elif outcome.missing:
        errors.print(Text(f"{outcome.missing} are missing. Go on with: {command}"), soft_wrap=True)


# ---- the plan alone ----------------------------------------------------------------------------------------------


def _print_plan(declared: DeclaredAudit, out: Path | None, *, as_json: bool) -> None:
    """The grid, its size and the time, on standard output."""
    spec, planned = declared.spec, declared.planned
    expected = estimate(planned, _stored(out), spec.run.workers or _cores(spec.run.threads))
    axes = _axes(spec)
    cells = math.prod(len(entries) for entries in axes.values())
    if as_json:
        facts: dict[str, Any] = {
            "name": spec.name,
            "comment": declared.comment,
            "axes": axes,
            "cells": cells,
            "batches_per_cell": spec.trials,
            "trials": expected.trials,
            "done": expected.done,
            "workers": expected.workers,
            "seconds": expected.seconds,
            "at_most_seconds": expected.at_most,
            "how": expected.how,
            "trainings": [
                {"name": training.declared.spec.name, "done": training.done} for training in declared.trainings
            ],
            "price_trainings": len(declared.prices),
            **bound_facts(declared, out),
            "ids": [trial.id for trial in planned],
        }
        print_json(facts)
        return
    if declared.comment:
        console.print(Text(declared.comment), soft_wrap=True)
    table = Table(
        title=Text(f"{spec.name}: the grid"), title_justify="left", box=None, pad_edge=False, show_header=False
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for axis, entries in axes.items():
        table.add_row(f"{axis} ({len(entries)})", Text("\n".join(entries)))
    console.print(table)
    for training in declared.trainings:
        name = training.declared.spec.name
        line = f"Training {name} is done" if training.done else f"Training comes first: {name}; see gradleak train"
        console.print(Text(line), soft_wrap=True)
    console.print(f"{cells} cells x {spec.trials} captured batches = {expected.trials} trials")
    for line in [*_price_lines(declared), *bound_lines(declared, out), *_time_lines(expected, out)]:
        console.print(Text(line), soft_wrap=True)


def _price_lines(declared: DeclaredAudit) -> list[str]:
    """How many trainings tell the price, and roughly how long they take."""
    price = declared.spec.price
    if price is None:
        return []
    from gradleak.training.estimate import estimate_seconds
    from gradleak.training.preparing import new_defending, prepare

    first = [one.training for one in declared.prices if one.seed == 0 and one.training is not None]
    lines = [f"Price: {len(first)} settings x {price.seeds} seeds = {len(first) * price.seeds} short trainings"]
    if first:
        prepared = prepare(first[0])
        seconds = price.seeds * len(first) * estimate_seconds(first[0], prepared, new_defending(first[0], prepared))
        most = "" if price.max_seconds is None else f", at most {duration(price.max_seconds)}"
        lines[0] += f", about {duration(seconds)} one after the other{most}"
    lines += [f"No price: {one.reason}" for one in declared.prices if one.reason]
    return list(dict.fromkeys(lines))


def _time_lines(expected: TimeEstimate, out: Path | None) -> list[str]:
    lines = [] if out is None else [f"{expected.done} of them are in {out} already"]
    most = "without a limit in seconds" if math.isinf(expected.at_most) else f"at most {duration(expected.at_most)}"
    at_once = "one at a time" if expected.workers == 1 else f"{expected.workers} at a time"
    lines.append(f"Time: about {duration(expected.seconds)} with {at_once}, {most} for the attacks")
    lines.append(f"Estimated {expected.how}.")
    return lines


def _stored(out: Path | None) -> Sequence[TrialRecord]:
    """The records of a folder; none if there is no folder yet."""
    return Store(out).records() if out is not None and out.is_dir() else ()


def _cores(threads: int) -> int:
    from joblib import cpu_count

    return max(1, cpu_count() // threads)


def _axes(spec: AuditSpec) -> dict[str, list[str]]:
    """Every axis of the grid with its entries in words."""
    return {
        "model": [_model_words(entry) for entry in spec.model],
        "data": [_data_words(entry) for entry in spec.data],
        "batch_size": [_size_words(size) for size in spec.batch_size],
        "client": [_component_words(entry) for entry in spec.client],
        "defense": [" then ".join(map(_component_words, entry)) or "none" for entry in spec.defense],
        "threat": [", ".join(f"{key}={value}" for key, value in entry.items()) or "default" for entry in spec.threat],
        "attack": [_component_words(entry) for entry in spec.attack],
    }


def _size_words(size: int | PerClient) -> str:
    return f"{size.per_client} for each client" if isinstance(size, PerClient) else str(size)


def _component_words(entry: Component) -> str:
    return settings_text(entry.plain()) if entry.settings else entry.name


def _model_words(entry: ModelSpec) -> str:
    words = _component_words(Component(name=entry.name, settings=entry.settings))
    more = [f"weights {entry.weights}"] if entry.weights else []
    return ", ".join([words, *more, *([entry.stage] if entry.stage else [])])


def _data_words(entry: DataSpec) -> str:
    words = [_component_words(Component(name=entry.name, settings=entry.settings))]
    words += [] if entry.size is None else [f"{entry.size}x{entry.size} pixels"]
    words += [] if entry.only is None else [f"only {', '.join(entry.only)}"]
    words += [] if entry.classes is None else [f"{entry.classes} classes"]
    words += [] if entry.objective == "classification" else [f"objective {entry.objective}"]
    return ", ".join([*words, *(["distinct labels"] if entry.distinct_labels else [])])
