"""How far the training of an inverter is, on standard error."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from gradleak.cli.console import errors
from gradleak.cli.plain_lines import PlainLines

if TYPE_CHECKING:
    from gradleak.inverters import QualityFacts
    from gradleak.learning import LearnProgress


@contextmanager
def learning_lines() -> "Generator[Callable[[LearnProgress], None]]":
    """Show how far a training is: a bar on a terminal, otherwise a plain line every few seconds.

    Yields:
        A function to call after every step, every look at held-out examples, and for every note.
    """
    if errors.is_terminal:
        yield from _bar()
    else:
        yield _plain_lines()


def _bar() -> "Generator[Callable[[LearnProgress], None]]":
    """A bar with the time that is left and the last scores.

    Yields:
        A function to call.
    """
    columns = (TextColumn("steps"), BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=errors, transient=True) as bar:
        job = bar.add_task("steps", total=1.0, words="")
        quality = ""

        def show(progress: "LearnProgress") -> None:
            nonlocal quality
            if progress.note:
                bar.console.print(Text(progress.note), soft_wrap=True)
            if progress.quality is not None:
                quality = quality_words(progress.quality)
            words = f"{progress.step} of {progress.total}{_left(progress)}{quality}"
            bar.update(job, completed=progress.done, words=words)

        yield show


def _plain_lines() -> "Callable[[LearnProgress], None]":
    """A function that prints at most one line every few seconds, and every note.

    Returns:
        The function.
    """
    lines = PlainLines()
    quality = ""

    def show(progress: "LearnProgress") -> None:
        nonlocal quality
        if progress.quality is not None:
            quality = quality_words(progress.quality)
        words = f"step {progress.step} of {progress.total}{_left(progress)}, loss {progress.loss:.4f}{quality}"
        lines.show(progress.note, words)

    return show


def quality_words(quality: "QualityFacts") -> str:
    """The held-out scores, in a few words after a comma."""
    ssim = "" if quality.ssim is None else f"SSIM {quality.ssim:.3f}, "
    psnr = "" if quality.psnr is None else f"PSNR {quality.psnr:.1f} dB"
    return f", held out: {ssim}{psnr}"


def _left(progress: "LearnProgress") -> str:
    return "" if progress.left_seconds is None else f", about {progress.left_seconds:.0f} s left"
