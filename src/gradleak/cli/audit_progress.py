"""How far an audit is, on standard error: a bar on a terminal, otherwise a plain line every few seconds."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from gradleak.cli.console import SECONDS_BETWEEN_LINES, errors

if TYPE_CHECKING:
    from gradleak.audits.run import Progress as AuditProgress


@contextmanager
def progress_lines() -> "Generator[Callable[[AuditProgress], None]]":
    """Show how far an audit is.

    Yields:
        A function to call after every trial and for every note.
    """
    if errors.is_terminal:
        yield from _bar()
    else:
        yield _plain_lines()


def _bar() -> "Generator[Callable[[AuditProgress], None]]":
    """A bar with the time that is left.

    Yields:
        A function to call after every trial and for every note.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        job = bar.add_task("trials", total=None, left="")

        def show(progress: "AuditProgress") -> None:
            if progress.note:
                bar.console.print(Text(progress.note), soft_wrap=True)
            bar.update(job, total=progress.planned, completed=progress.stored, left=_words(progress))

        yield show


def _plain_lines() -> "Callable[[AuditProgress], None]":
    """A function that prints at most one line every few seconds, and every note.

    Returns:
        The function.
    """
    last = time.monotonic()

    def show(progress: "AuditProgress") -> None:
        nonlocal last
        if progress.note:
            errors.print(Text(progress.note), soft_wrap=True)
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            errors.print(f"{progress.stored} of {progress.planned} trials{_words(progress)}", soft_wrap=True)

    return show


def _words(progress: "AuditProgress") -> str:
    """What went wrong so far, and how long the rest will take."""
    failed = f", {progress.errors} failed" if progress.errors else ""
    left = "" if progress.left_seconds is None else f", about {progress.left_seconds:.0f} s left"
    return failed + left
