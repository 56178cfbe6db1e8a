"""The figures behind a curve as a table, for the page and for text files."""

from dataclasses import dataclass

from gradleak.audits.report.answers import rate_words
from gradleak.audits.report.axes import Axis
from gradleak.audits.report.plots import chance_of
from gradleak.audits.report.words import fixed, share, whole
from gradleak.audits.store import PSNR, Group, leak_at


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
        threshold: PSNR in dB, or token accuracy, a declared one.

    Returns:
        Success rates and medians with their 95 % intervals, the best answer without the update beside, and the cost.
    """
    named, merit = len(axis.lines) > 1, axis.merit
    header = (
        axis.title,
        *(("attack",) if named else ()),
        f"success at {merit.at(threshold)} [95 %]",
        f"{merit.noun}s at {merit.at(threshold)}",
        f"median {merit.heading if merit.unit else merit.word} [95 %]",
        "without the update, dB" if merit == PSNR else "without the update",
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
    low, high = group.leakage_interval
    number = group.merit.number
    return (
        rate_words(group, threshold),
        share(leak.images, leak.of),
        f"{number(group.leakage.median)} [{number(low)}, {number(high)}]",
        number(chance_of(group)),
        share(group.statuses.get("converged", 0), group.trials),
        fixed(group.seconds, 1),
        whole(group.evaluations),
    )
