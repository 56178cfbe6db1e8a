"""The plots of the reports: courses of attacks, curves of axes, frontiers, spectra and histograms."""

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from gradleak.audits.report.axes import Axis, AxisLine
from gradleak.audits.report.svg import INK, MARK, SERIES, Curve, Frame, drawn_curves, picture
from gradleak.audits.store import PSNR, Group, Interval, Merit, Point, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNSEEN = "best answer without the update"
"""What the gray line of a plot is called."""

# Infinite PSNR (equal to the last bit) has no place on an axis; float32 pixels seldom pass this.
_HIGHEST_DB = 120.0


def series_count() -> int:
    """How many different colors there are; later series start over."""
    return len(SERIES)


def objective_plot(records: Sequence[TrialRecord], series: Sequence[int]) -> str:
    """Objective against evaluations, both logarithmic, one line for each trial; empty if there is nothing to draw."""
    curves = [
        Curve(record.course.evaluations, _positive(record.course.objective), number)
        for record, number in zip(records, series, strict=True)
    ]
    return drawn_curves(curves, Frame(y="objective", log_y=True))


def leakage_plot(records: Sequence[TrialRecord], series: Sequence[int], merit: Merit) -> str:
    """Figure of merit of the snapshots against evaluations, one line for each private example of that kind."""
    curves = [
        Curve(record.course.snapshot_evaluations, [min(moment[row], _HIGHEST_DB) for moment in moments], number)
        for record, number in zip(records, series, strict=True)
        if record.merit == merit and (moments := _moments(record))
        for row in range(len(moments[0]))
    ]
    return drawn_curves(curves, Frame(y=merit.axis, rows=(merit.recognizable, merit.close)))


def _moments(record: TrialRecord) -> tuple[tuple[float, ...], ...]:
    return record.course.psnr if record.merit == PSNR else record.course.token_accuracy


def share_plot(values: Sequence[tuple[Sequence[float], int]], marks: Sequence[float], merit: Merit = PSNR) -> str:
    """For each attack the share of private examples that reached a value; what was not scored reached none.

    Args:
        values: figures of merit, NaN allowed, and the number of the color, for each line.
        marks: vertical lines at these values.
        merit: what they are.

    Returns:
        SVG; empty if there is nothing to draw.
    """
    curves: list[Curve] = []
    for found, series in values:
        reached = sorted(min(value, _HIGHEST_DB) for value in found if not math.isnan(value))
        shares = [100 * (len(reached) - rank) / len(found) for rank in range(len(reached))]
        if reached:
            curves.append(Curve([*reached, reached[-1]], [*shares, 0.0], series, steps=True))
    frame = Frame(x=f"{merit.axis} or more", y=f"share of {merit.noun}s (%)", log_x=False, columns=marks)
    return drawn_curves(curves, frame)


def axis_plot(
    lines: Sequence[tuple[AxisLine, int]], axis: Axis, marks: Sequence[float], *, legend: bool = False
) -> str:
    """Medians with their intervals over a setting that was varied, and in gray the best answer without the update.

    Args:
        lines: each with the number of its color.
        axis: the setting.
        marks: horizontal lines at these values.
        legend: put one inside the plot.

    Returns:
        SVG.
    """
    words = axis.words
    # What needs no update depends on the examples alone, which lines of one place share.
    chance = {
        place: chance_of(group) for line, _ in lines for place, group in zip(line.places, line.groups, strict=True)
    }
    curves = [Curve(sorted(chance), [chance[place] for place in sorted(chance)], 0, label=UNSEEN if legend else "")]
    for line, series in lines:
        medians = [min(group.leakage.median, _HIGHEST_DB) for group in line.groups]
        band = (
            [min(group.leakage_interval[0], _HIGHEST_DB) for group in line.groups],
            [min(group.leakage_interval[1], _HIGHEST_DB) for group in line.groups],
        )
        label = line.title if legend else ""
        curves.append(Curve(line.places, medians, series, band, label=label, apart=not axis.ordered))
    places = [place for line, _ in lines for place in line.places]
    wide = not words and min(places) > 0 and max(places) >= 8 * min(places)
    median_of = f"median {axis.merit.axis if axis.merit.unit else axis.merit.word}"
    return drawn_curves(curves, Frame(x=axis.title, y=median_of, log_x=wide, ticks=words, rows=marks))


def frontier_plot(points: Sequence[Point]) -> str:
    """Leak rate against test accuracy, each a numbered dot with its 95 % intervals; dominated settings are gray.

    Args:
        points: numbered from 1 in this order, with or without an accuracy.

    Returns:
        SVG; empty if no point has both figures.
    """
    shown = [
        (number, point)
        for number, point in enumerate(points, start=1)
        if math.isfinite(point.accuracy.value) and point.leak.beyond.trials
    ]

    def draw(axes: "Axes") -> None:
        for _, point in shown:
            color = MARK if point.dominated else SERIES[0]
            x, y = 100 * point.accuracy.value, 100 * point.leak.beyond.share
            left, right = _ends(point.accuracy)
            low, high = 100 * point.leak.beyond.low, 100 * max(point.leak.beyond.high, point.leak.at_most)
            axes.hlines(y, left, right, color=color, alpha=0.55, linewidth=1.4, zorder=1)
            axes.vlines(x, low, high, color=color, alpha=0.55, linewidth=1.4, zorder=1)
            filled = color if point.state != "open" else "none"
            axes.plot([x], [y], color=color, marker="o", markersize=6, markerfacecolor=filled, linestyle="", zorder=3)
        for (number, point), above in zip(shown, _heights(shown), strict=True):
            place = (100 * point.accuracy.value, 100 * point.leak.beyond.share)
            color = MARK if point.dominated else INK
            axes.annotate(
                str(number), place, (6, above), textcoords="offset points", color=color, fontsize=10, zorder=4
            )
        axes.set_ylim(-6, 112)

    frame = Frame(x="test accuracy (%)", y="batches that leaked (%)", log_x=False)
    return picture(draw, frame, []) if shown else ""


def spectrum_plot(values: Sequence[float]) -> str:
    """Singular values in descending order; those that are zero have no place on the logarithmic axis.

    Returns:
        SVG; empty if all are zero.
    """
    shown = _positive(values)
    places = list(range(1, len(shown) + 1))
    return drawn_curves([Curve(places, shown, 1)], Frame(x="direction", y="singular value", log_x=False, log_y=True))


def histogram_plot(values: Sequence[float], x: str, marks: Sequence[float] = ()) -> str:
    """How often values occur, over a logarithmic axis.

    Args:
        values: those above 0 and finite are counted.
        x: words below the axis.
        marks: vertical lines at these values.

    Returns:
        SVG; empty if there is nothing to draw.
    """
    logs = [math.log10(value) for value in values if 0 < value < math.inf]
    if not logs:
        return ""
    # A tenth of a decade more, so that equal values make one bar in the middle.
    low, high = min(logs) - 0.05, max(logs) + 0.05
    count = min(40, max(5, round(2 * len(logs) ** 0.5)))
    edges = [low + (high - low) * place / count for place in range(count + 1)]
    counts = [0] * count
    for value in logs:
        counts[min(count - 1, int(count * (value - low) / (high - low)))] += 1

    def draw(axes: "Axes") -> None:
        # Bars over the logarithm itself: matplotlib's own labels of a logarithmic axis collide within a decade.
        axes.stairs(counts, edges, fill=True, color=SERIES[0], alpha=0.8, zorder=2)
        ticks = _round_between(10**low, 10**high)
        axes.set_xticks([math.log10(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])

    columns = [math.log10(mark) for mark in marks if mark > 0]
    return picture(draw, Frame(x=x, y="examples", log_x=False, columns=columns), [])


def _round_between(low: float, high: float) -> list[float]:
    """Up to seven round numbers for a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        if len(found) <= 7:
            return found or [math.sqrt(low * high)]
    return found[:: -(-len(found) // 7)]


def _ends(interval: Interval) -> tuple[float, float]:
    """Ends in percent within the axis; a single training has none, and a dot alone."""
    if math.isnan(interval.low):
        return 100 * interval.value, 100 * interval.value
    return 100 * max(interval.low, 0.0), 100 * min(interval.high, 1.0)


def _heights(shown: Sequence[tuple[int, Point]]) -> list[float]:
    """How far above its dot each number stands, in points: numbers of dots that are close are put one above another."""
    taken: list[tuple[float, float, float]] = []
    reach = max(point.accuracy.value for _, point in shown) - min(point.accuracy.value for _, point in shown)
    for _, point in shown:
        x, y = point.accuracy.value, point.leak.beyond.share
        near = [height for left, low, height in taken if abs(left - x) <= 0.08 * reach and abs(low - y) < 0.05]
        taken.append((x, y, max(near) + 11 if near else 5))
    return [height for _, _, height in taken]


def chance_of(group: Group) -> float:
    """Median figure of merit of the best kind of answer that never saw the update; NaN if there is none."""
    found = [row.leakage.median for row in group.baselines]
    return max((value for value in found if not math.isnan(value)), default=math.nan)


def layer_plot(records: Sequence[TrialRecord], *, legend: bool = False) -> tuple[str, tuple[str, ...]]:
    """Each weight's relative distance against evaluations, for trials of one attack and model.

    Trials look at their layers at up to eight moments of their own course; medians are over the first moments of all,
    the second, and so on.

    Returns:
        SVG, and the names of the layers in the order of their colors.
    """
    looked = [record for record in records if record.course.layers]
    names = tuple(name for name in (looked[0].course.layers if looked else ()) if name.endswith("weight"))
    names = names[: len(SERIES)]
    moments = range(max((len(record.course.layer_evaluations) for record in looked), default=0))
    curves: list[Curve] = []
    for series, name in enumerate(names, start=1):
        places: list[float] = []
        distances: list[float] = []
        for moment in moments:
            there = [
                record
                for record in looked
                if name in record.course.layers and moment < len(record.course.layer_evaluations)
            ]
            places.append(median(record.course.layer_evaluations[moment] for record in there))
            rows = [record.course.layer_distances[moment][record.course.layers.index(name)] for record in there]
            distances.append(median(rows))
        curves.append(Curve(places, _positive(distances), series, label=name if legend else ""))
    return drawn_curves(curves, Frame(y="distance of a layer's gradient", log_y=True)), names


def _positive(values: Sequence[float]) -> list[float]:
    """Values that a logarithmic axis can show."""
    return [value if 0 < value < math.inf else math.nan for value in values]
