"""How far a training is, on standard error: a bar on a terminal, otherwise a plain line every few seconds."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from gradleak.cli.console import errors
from gradleak.cli.plain_lines import PlainLines

if TYPE_CHECKING:
    from gradleak.training.run import TrainProgress


@contextmanager
def training_lines() -> "Generator[Callable[[TrainProgress], None]]":
    """Show how far a training is.

    Yields:
        A function to call after every step or round, every look at the model, and for every note.
    """
    if errors.is_terminal:
        yield from _bar()
    else:
        yield _plain_lines()


def _bar() -> "Generator[Callable[[TrainProgress], None]]":
    """A bar with the time that is left and the last accuracies.

    Yields:
        A function to call.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}{task.fields[quality]}"),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        job = bar.add_task("steps", total=None, left="", quality="")

        def show(progress: "TrainProgress") -> None:
            if progress.note:
                bar.console.print(Text(progress.note), soft_wrap=True)
            if progress.row is not None:
                bar.update(job, quality=_quality(progress.row))
            bar.update(
                job,
                description=f"{progress.word}s",
                total=progress.last,
                completed=progress.unit,
                left=_left(progress),
            )

        yield show


def _plain_lines() -> "Callable[[TrainProgress], None]":
    """A function that prints at most one line every few seconds, and every note.

    Returns:
        The function.
    """
    lines = PlainLines()
    quality = ""

    def show(progress: "TrainProgress") -> None:
        nonlocal quality
        if progress.row is not None:
            quality = _quality(progress.row)
        words = f"{progress.word} {progress.unit} of {progress.last}{_left(progress)}{quality}"
        lines.show(progress.note, words)

    return show


def _left(progress: "TrainProgress") -> str:
    return "" if progress.left_seconds is None else f", about {progress.left_seconds:.0f} s left"


def _quality(row: dict[str, Any]) -> str:
    return f", accuracy {100 * row['train_accuracy']:.1f} % (test {100 * row['test_accuracy']:.1f} %)"
