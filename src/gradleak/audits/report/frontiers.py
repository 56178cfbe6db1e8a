"""The frontier on the page: the answer, a picture, and the figures of every setting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradleak.audits.report.plots import frontier_plot
from gradleak.audits.report.tables import Table
from gradleak.audits.report.words import NOTHING, decibels
from gradleak.audits.store import Contents, Frontier, Interval, Leak, Merit, Point

_SHOWN = {"stops": "stopped", "bounded": "stopped by the bound", "leaks": "leaks", "open": "inconclusive"}


@dataclass(frozen=True)
class FrontierSection:
    """One frontier.

    Attributes:
        title: model and data.
        sentences: the recommendation.
        svg: markup of ours; empty if no setting has both figures.
        table: one row for each setting, with the numbers of the dots.
        grayed: of each row, whether another setting dominates it.
    """

    title: str
    sentences: tuple[str, ...]
    svg: str
    table: Table
    grayed: tuple[bool, ...]


def sections(contents: Contents) -> list[FrontierSection]:
    """Every frontier of an audit."""
    return [
        FrontierSection(
            found.title,
            found.recommendation,
            frontier_plot(found.points),
            frontier_table(found),
            tuple(bool(point.dominated) for point in found.points),
        )
        for found in contents.frontiers
    ]


def frontier_table(frontier: Frontier) -> Table:
    """The figures of every setting, in the order of the audit."""
    bounded = any(point.bound is not None or point.bound_trouble for point in frontier.points)
    merit = frontier.points[0].judged.merit
    header = (
        "setting",
        f"leaked at {merit.at(frontier.threshold)} [95 %]",
        f"below {100 * frontier.below:g} %",
        "knows the defense",
        "does not",
        f"median {merit.heading if merit.unit else merit.word} [95 %]",
        *(("unbiased ceiling, dB [min, max]", "highest with the prior, dB") if bounded else ()),
        "test accuracy, % [95 %]",
        "price, points [95 %]",
        "dominated by",
    )
    rows = [
        (
            f"{number} {point.label}",
            _leak(point),
            _SHOWN[point.state],
            _share(point.adaptive),
            _share(point.blind),
            _leakage(point.leakage, merit),
            *((_bound(point), _prior_bound(point)) if bounded else ()),
            _percent(point.accuracy) if not math.isnan(point.accuracy.value) else point.trouble or NOTHING,
            _percent(point.price),
            _dominated(point, frontier.points),
        )
        for number, point in enumerate(frontier.points, start=1)
    ]
    return Table(header, tuple(rows))


def _bound(point: Point) -> str:
    if point.bound is None or point.bound_ends is None:
        return point.bound_trouble or NOTHING
    return f"{decibels(point.bound)} [{decibels(point.bound_ends[0])}, {decibels(point.bound_ends[1])}]"


def _prior_bound(point: Point) -> str:
    return NOTHING if math.isnan(point.prior_bound) else decibels(point.prior_bound)


def _leak(point: Point) -> str:
    found = point.leak.beyond
    if not found.trials:
        return NOTHING
    open_too = f"; {point.leak.unsettled} open" if point.leak.unsettled else ""
    return f"{found.successes} of {found.trials} [{100 * found.low:.0f}, {100 * found.high:.0f}]{open_too}"


def _share(leak: Leak | None) -> str:
    return NOTHING if leak is None else f"{leak.beyond.successes} of {leak.beyond.trials}"


def _leakage(interval: Interval, merit: Merit) -> str:
    if math.isnan(interval.low):
        return merit.number(interval.value)
    return f"{merit.number(interval.value)} [{merit.number(interval.low)}, {merit.number(interval.high)}]"


def _percent(interval: Interval) -> str:
    if math.isnan(interval.value):
        return NOTHING
    if math.isnan(interval.low):
        return f"{100 * interval.value:.1f}"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _dominated(point: Point, points: Sequence[Point]) -> str:
    """The number of the setting that is better, and whether by more than the intervals."""
    if not point.dominated:
        return ""
    number = next(place for place, other in enumerate(points, start=1) if other.label == point.dominated)
    return f"{number}, clearly" if point.clearly else f"{number}, narrowly"
