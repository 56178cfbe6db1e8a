"""The figures behind a curve as a table, for the page and for text files."""

from dataclasses import dataclass

from gradleak.audits.report.answers import rate_words
from gradleak.audits.report.axes import Axis
from gradleak.audits.report.plots import chance_db
from gradleak.audits.report.words import decibels, fixed, share, whole
from gradleak.audits.store import Group, leak_at


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        header: of the columns.
        rows: each as long as the header.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def axis_table(axis: Axis, threshold: float) -> Table:
    """One row for each place of each line.

    Args:
        axis: what was varied.
        threshold: PSNR in dB, a declared one.

    Returns:
        Success rates and medians with their 95 % intervals, the best answer without the update beside, and the cost.
    """
    named = len(axis.lines) > 1
    header = (
        axis.title,
        *(("attack",) if named else ()),
        f"success at {threshold:g} dB [95 %]",
        f"images at {threshold:g} dB",
        "median PSNR, dB [95 %]",
        "without the update, dB",
        "updates reproduced",
        "seconds",
        "evaluations",
    )
    rows = [
        (axis.word(place), *((line.title,) if named else ()), *_cells(group, threshold))
        for line in axis.lines
        for place, group in zip(line.places, line.groups, strict=True)
    ]
    return Table(header, tuple(rows))


def _cells(group: Group, threshold: float) -> tuple[str, ...]:
    leak = leak_at(group.leaks, threshold)
    low, high = group.psnr_interval
    return (
        rate_words(group, threshold),
        share(leak.images, leak.of),
        f"{decibels(group.psnr.median)} [{decibels(low)}, {decibels(high)}]",
        decibels(chance_db(group)),
        share(group.statuses.get("converged", 0), group.trials),
        fixed(group.seconds, 1),
        whole(group.evaluations),
    )
