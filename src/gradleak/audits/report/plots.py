"""Curves as inline SVG whose colors are CSS variables, so that one picture serves light and dark pages."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradleak.audits.store import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colors that stand for CSS variables: matplotlib writes them as hex, and the page's own style replaces them.
_INK, _GRID, _MARK = "#010101", "#010102", "#010103"
_SERIES = tuple(f"#0102{position:02x}" for position in range(1, 9))
_VARIABLES = {_INK: "var(--soft)", _GRID: "var(--line)", _MARK: "var(--mark)"} | {
    color: f"var(--series-{position})" for position, color in enumerate(_SERIES, start=1)
}

# Infinite PSNR (equal to the last bit) has no place on an axis; float32 pixels seldom pass this.
_HIGHEST_DB = 120.0


@dataclass(frozen=True)
class Curve:
    """One line of a plot: evaluations, values (NaN leaves a gap), and the number of its color, from 1."""

    x: Sequence[int]
    y: Sequence[float]
    series: int


def series_count() -> int:
    """How many different colors there are; later series start over."""
    return len(_SERIES)


def objective_plot(records: Sequence[TrialRecord], series: Sequence[int]) -> str:
    """Objective against evaluations, both logarithmic, one line for each trial; empty if there is nothing to draw."""
    curves = [
        Curve(record.course.evaluations, _positive(record.course.objective), number)
        for record, number in zip(records, series, strict=True)
    ]
    return _svg(curves, "objective", log=True, marks=())


def psnr_plot(records: Sequence[TrialRecord], series: Sequence[int], marks: Sequence[float]) -> str:
    """PSNR of the snapshots against evaluations, one line for each private example, with lines at `marks` dB."""
    curves = [
        Curve(
            record.course.snapshot_evaluations,
            [min(moment[row], _HIGHEST_DB) for moment in record.course.psnr],
            number,
        )
        for record, number in zip(records, series, strict=True)
        if record.course.psnr
        for row in range(len(record.course.psnr[0]))
    ]
    return _svg(curves, "PSNR (dB)", log=False, marks=marks)


def _positive(values: Sequence[float]) -> list[float]:
    """Values that a logarithmic axis can show."""
    return [value if 0 < value < math.inf else math.nan for value in values]


def _svg(curves: Sequence[Curve], label: str, *, log: bool, marks: Sequence[float]) -> str:
    """The plot, drawn through matplotlib's objects; nothing global is left changed."""
    drawn = [curve for curve in curves if any(math.isfinite(value) for value in curve.y)]
    if not drawn:
        return ""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": label,
        "font.family": "sans-serif",
        "font.size": 10.5,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.3, 2.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for level in marks:
            axes.axhline(level, color=_MARK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for curve in drawn:
            color = _SERIES[(curve.series - 1) % len(_SERIES)]
            axes.plot(curve.x, curve.y, color=color, linewidth=1.6, zorder=2, solid_capstyle="round")
            _mark_end(axes, curve, color)
        axes.set_xscale("log")
        if log:
            axes.set_yscale("log")
        axes.set_xlabel("evaluations", color=_INK)
        axes.set_ylabel(label, color=_INK)
        axes.tick_params(colors=_INK, which="both", length=3)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(_GRID)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _styled(buffer.getvalue())


def _mark_end(axes: "Axes", curve: Curve, color: str) -> None:
    """A dot where a curve ends, which also shows curves of one point."""
    last = max(position for position, value in enumerate(curve.y) if math.isfinite(value))
    axes.plot([curve.x[last]], [curve.y[last]], color=color, marker="o", markersize=4, zorder=3)


def _styled(svg: str) -> str:
    """The SVG element alone, with CSS variables for colors and the page's font."""
    svg = svg[svg.index("<svg") :]
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
