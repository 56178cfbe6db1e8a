"""Lines in a frame as inline SVG whose colors are CSS variables, so that one picture serves light and dark pages."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colors that stand for CSS variables: matplotlib writes them as hex, and the page's own style replaces them.
INK, GRID, MARK = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{position:02x}" for position in range(1, 9))
_VARIABLES = {INK: "var(--soft)", GRID: "var(--line)", MARK: "var(--mark)"} | {
    color: f"var(--series-{position})" for position, color in enumerate(SERIES, start=1)
}


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        x: places along the axis.
        y: values; NaN leaves a gap.
        series: number of its color, from 1; 0 for the gray of what no attack did.
        band: lower and upper ends of intervals, or None.
        steps: draw steps instead of straight lines.
        label: words in a legend inside the plot; empty for none.
        apart: draw dots with their intervals, since nothing lies between the places.
    """

    x: Sequence[float]
    y: Sequence[float]
    series: int
    band: tuple[Sequence[float], Sequence[float]] | None = None
    steps: bool = False
    label: str = ""
    apart: bool = False


@dataclass(frozen=True)
class Frame:
    """What surrounds the lines of a plot.

    Attributes:
        x: words below the axis.
        y: words beside the other.
        log_x: whether the axis is logarithmic.
        log_y: whether the other is.
        ticks: words at the places 0, 1, ... of an axis without numbers.
        rows: horizontal marks.
        columns: vertical marks.
    """

    x: str = "evaluations"
    y: str = ""
    log_x: bool = True
    log_y: bool = False
    ticks: Sequence[str] = ()
    rows: Sequence[float] = ()
    columns: Sequence[float] = ()


def drawn_curves(curves: Sequence[Curve], frame: Frame) -> str:
    """The plot of curves; empty if there is nothing to draw."""
    drawn = [curve for curve in curves if any(math.isfinite(value) for value in curve.y)]
    if not drawn:
        return ""

    def draw(axes: "Axes") -> None:
        for curve in drawn:
            _draw(axes, curve)

    return picture(draw, frame, drawn)


def picture(draw: "Callable[[Axes], None]", frame: Frame, curves: Sequence[Curve]) -> str:
    """What `draw` puts into a frame, through matplotlib's objects; nothing global is left changed."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": frame.y,
        "font.family": "sans-serif",
        "font.size": 10.5,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.3, 2.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for level in frame.rows:
            axes.axhline(level, color=MARK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for level in frame.columns:
            axes.axvline(level, color=MARK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        draw(axes)
        _dress(axes, frame, curves)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _styled(buffer.getvalue())


def _draw(axes: "Axes", curve: Curve) -> None:
    """One line, with a dot where it ends, which also shows lines of one point."""
    color = SERIES[(curve.series - 1) % len(SERIES)] if curve.series else MARK
    style = "steps-pre" if curve.steps else "default"
    line, marker = ("", "o") if curve.apart else ("-", "")
    axes.plot(
        curve.x,
        curve.y,
        color=color,
        linewidth=1.6,
        linestyle=line,
        marker=marker,
        markersize=4,
        zorder=2,
        solid_capstyle="round",
        drawstyle=style,
        label=curve.label or "_",
    )
    if curve.band is not None and curve.apart:
        axes.vlines(curve.x, *curve.band, color=color, alpha=0.5, linewidth=1.6, zorder=1)
    elif curve.band is not None:
        axes.fill_between(curve.x, *curve.band, color=color, alpha=0.18, linewidth=0, zorder=1)
    places = range(len(curve.y)) if curve.band is not None else [_last(curve)]
    axes.plot(
        [curve.x[place] for place in places],
        [curve.y[place] for place in places],
        color=color,
        marker="o",
        markersize=4,
        linestyle="",
        zorder=3,
    )


def _last(curve: Curve) -> int:
    return max(position for position, value in enumerate(curve.y) if math.isfinite(value))


def _dress(axes: "Axes", frame: Frame, curves: Sequence[Curve]) -> None:
    """Scales, ticks, words and grid."""
    if frame.log_x:
        axes.set_xscale("log")
    if frame.log_y:
        axes.set_yscale("log")
    if frame.ticks:
        axes.set_xticks(range(len(frame.ticks)), frame.ticks, parse_math=False)
    elif frame.x != "evaluations" and any(curve.band is not None for curve in curves):
        places = sorted({place for curve in curves for place in curve.x})
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
    if any(curve.label for curve in curves):
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    axes.set_xlabel(frame.x, color=INK, parse_math=False)
    axes.set_ylabel(frame.y, color=INK)
    axes.tick_params(colors=INK, which="both", length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def _styled(svg: str) -> str:
    """The SVG element alone, with CSS variables for colors and the page's font."""
    svg = svg[svg.index("<svg") :]
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
