"""`gradleak train`: train a model and keep it at declared fractions of training, for audits."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gradleak.cli.console import console, duration, errors, facts_table, print_json
from gradleak.cli.loading import AsJson
from gradleak.cli.train_progress import training_lines
from gradleak.errors import refuse

if TYPE_CHECKING:
    from gradleak.training import Checkpoint, TrainOutcome
    from gradleak.training.train import DeclaredTraining

INCOMPLETE = 3


def train(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or a name of list trainings.")],
    out: Annotated[Path | None, typer.Option(help="Folder for checkpoints and history.jsonl.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Replace a value of the spec; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print data, size and time, and train nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model and keep it at declared fractions of training; the same command goes on where it stopped.

    Exit codes: 0 every checkpoint is there, 2 a mistake in the spec or another spec in the same folder, 3 the training
    was interrupted or diverged.

    Raises:
        Exit: when a checkpoint is missing.
    """
    from gradleak.training.run import run_training
    from gradleak.training.train import declare_training

    refuse([] if dry_run or out is not None else ["--out: expected a folder for checkpoints, got none; add --out DIR"])
    declared = declare_training(spec, assignments or ())
    if dry_run or out is None:
        _print_plan(declared, as_json=as_json)
        return
    with training_lines() as notify:
        outcome = run_training(declared.spec, out, declared.comment, notify)
    _print_outcome(outcome, as_json=as_json)
    if not outcome.complete:
        raise typer.Exit(INCOMPLETE)


def _print_outcome(outcome: "TrainOutcome", *, as_json: bool) -> None:
    from gradleak.training import read_checkpoint

    checkpoints = {path: read_checkpoint(path) for path in outcome.checkpoints}
    if as_json:
        print_json(
            {
                "status": outcome.status,
                "message": outcome.message,
                "folder": str(outcome.folder),
                "last": outcome.row,
                "checkpoints": [
                    {"path": str(path), **found.model_dump(mode="json", exclude={"spec"})}
                    for path, found in checkpoints.items()
                ],
            }
        )
    else:
        console.print(_table(checkpoints))
        console.print(Text(f"In {outcome.folder}"), soft_wrap=True)
    (errors if as_json else console).print(Text(outcome.message), soft_wrap=True)
    if outcome.status == "interrupted":
        command = shlex.join(["gradleak", *sys.argv[1:]])
        errors.print(Text(f"Nothing is lost. Go on with: {command}"), soft_wrap=True)


def _table(checkpoints: "dict[Path, Checkpoint]") -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("checkpoint", "epochs", "train accuracy", "test accuracy"):
        table.add_column(column, overflow="fold")
    for path, found in checkpoints.items():
        train, test = (f"{100 * quality.accuracy:.1f} %" for quality in (found.train, found.test))
        table.add_row(Text(path.name), f"{found.epochs:.3g}", train, test)
    return table


def _print_plan(declared: "DeclaredTraining", *, as_json: bool) -> None:
    """What would be trained, on standard output."""
    from gradleak.training.estimate import estimate_seconds
    from gradleak.training.preparing import new_defending, prepare

    spec = declared.spec
    prepared = prepare(spec)
    defending = new_defending(spec, prepared)
    model = defending.task.model
    seconds = estimate_seconds(spec, prepared, defending)
    word = "step" if spec.federated is None else "round"
    facts: dict[str, Any] = {
        "name": spec.name,
        "comment": declared.comment,
        "model": spec.model.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "defense": [entry.plain() for entry in spec.defense],
        "data": prepared.train.name,
        "examples": len(prepared.train),
        "test": prepared.test.name,
        "test_examples": len(prepared.test),
        "unit": word,
        "units": prepared.total,
        "checkpoints": [
            {"fraction": stage.fraction, "unit": stage.unit, "file": stage.file} for stage in prepared.stages
        ],
        "seconds": seconds,
    }
    if as_json:
        print_json(facts)
        return
    if declared.comment:
        console.print(Text(declared.comment), soft_wrap=True)
    stages = ", ".join(f"{stage.words} ({word} {stage.unit})" for stage in prepared.stages)
    rows = [
        ("model", f"{facts['model']}, {facts['parameters']:,} parameters"),
        ("data", f"{facts['data']}, {facts['examples']:,} examples"),
        ("test", f"{facts['test']}, {facts['test_examples']:,} examples"),
        *([("defense", ", ".join(entry.name for entry in spec.defense))] if spec.defense else []),
        ("length", f"{prepared.total:,} {word}s"),
        ("checkpoints", stages),
        ("time", f"about {duration(seconds)}"),
    ]
    console.print(facts_table(f"{spec.name}: the training", rows))
