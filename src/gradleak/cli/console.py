"""What the commands share on the terminal: consoles, progress, and numbers as people read them.

Results go to standard output; progress and errors go to standard error, so that `--json` output stays clean.
"""

import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

# Without a terminal, progress is one plain line at most this often.
SECONDS_BETWEEN_LINES = 5.0

MINUTE, HOUR, DAY = 60, 3600, 86400

console = Console(highlight=False)
"""Standard output."""

errors = Console(stderr=True, highlight=False)
"""Standard error."""

Report = Callable[[int, float], None]
"""`report(evaluations, best objective so far)`, as attacks call it."""


@contextmanager
def progress_reporter(label: str, total: int | None = None) -> Generator[Report, None, None]:
    """Show how far an attack is, on standard error: a bar on a terminal, otherwise a plain line every few seconds.

    Args:
        label: what is running, for instance the attack's name.
        total: evaluations at which it ends at the latest; None if that is not known.

    Yields:
        A function to call with the evaluations so far and the best objective so far.
    """
    if errors.is_terminal:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed} evaluations  objective {task.fields[objective]}"),
            TimeElapsedColumn(),
            console=errors,
            transient=True,
        ) as bar:
            job = bar.add_task(label, total=total, objective="-")
            yield lambda evaluations, objective: bar.update(job, completed=evaluations, objective=f"{objective:.2e}")
    else:
        yield _plain_lines(label, total)


def _plain_lines(label: str, total: int | None) -> Report:
    """A report that prints at most one line every few seconds."""
    of_total = "" if total is None else f" of {total}"
    last = time.monotonic()

    def report(evaluations: int, objective: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            # soft_wrap: a log file has no width to break lines at
            errors.print(f"{label}: {evaluations}{of_total} evaluations, objective {objective:.3e}", soft_wrap=True)

    return report


def print_json(content: object) -> None:
    """Print plain data as JSON to standard output, numbers that JSON does not know (NaN, infinity) as null."""
    # Not through rich, which would break long lines at the width of the terminal.
    print(json.dumps(_finite(content), indent=2))


def _finite(content: object) -> object:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [_finite(value) for value in content]
    return content


def facts_table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """A table of names and values that folds long values, so that it is whole on a narrow terminal too."""
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def number(value: float) -> str:
    """A number in three digits, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people read them.

    Returns:
        One number with a unit.

    >>> duration(0.4), duration(90), duration(9000), duration(200000)
    ('1 s', '1.5 min', '2.5 h', '2.3 days')
    """
    for limit, unit, name in ((MINUTE, 1, "s"), (HOUR, MINUTE, "min"), (DAY, HOUR, "h")):
        if seconds < limit:
            value = max(seconds / unit, 1)
            return f"{value:.0f} {name}" if unit == 1 or value >= 10 else f"{value:.1f} {name}"
    return f"{seconds / DAY:.1f} days"
