"""The plots of the page, section by section."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradleak.audits.report import plots
from gradleak.audits.report.answers import answer
from gradleak.audits.report.axes import axes_of
from gradleak.audits.report.tables import Table, axis_table
from gradleak.audits.store import Contents, Merit, TrialRecord, column_numbers, mapping


@dataclass(frozen=True)
class Plot:
    """A picture of curves.

    Attributes:
        svg: markup of ours.
        label: what it shows, for those who cannot see it.
        caption: below it.
    """

    svg: str
    label: str
    caption: str


@dataclass(frozen=True)
class Curves:
    """Plots that share a legend.

    Attributes:
        title: of the section.
        plots: those that have something to draw.
        legend: words and the number of their color.
        note: a sentence; empty for none.
        answers: what the curves say about protection, one sentence for each line.
        table: the figures behind them, if they are few.
    """

    title: str
    plots: tuple[Plot, ...]
    legend: tuple[tuple[str, int], ...]
    note: str = ""
    answers: tuple[str, ...] = ()
    table: Table | None = None


def curves_of(contents: Contents, shown: Sequence[TrialRecord], colors: Mapping[str, int]) -> list[Curves]:
    """Every plot, from the whole audit to single trials.

    Args:
        contents: of the store.
        shown: trials whose own course is drawn.
        colors: number of the color of each attack.

    Returns:
        Sections in order, those without anything to draw left out.
    """
    return [*axis_curves(contents, colors), *_shares(contents, colors), *_courses(shown, colors)]


def axis_curves(contents: Contents, colors: Mapping[str, int], *, legend: bool = False) -> list[Curves]:
    """Leakage over every setting that was varied.

    Args:
        contents: of the store.
        colors: number of the color of each attack.
        legend: put one inside each plot, for pictures that stand alone.

    Returns:
        One section for each axis.
    """
    found: list[Curves] = []
    for axis in axes_of(contents.summary.groups):
        lines = [(line, position % plots.series_count() + 1) for position, line in enumerate(axis.lines)]
        if all(not line.setting and line.attack in colors for line in axis.lines):
            lines = [(line, colors[line.attack]) for line in axis.lines]
        shown = lines[: plots.series_count()]
        words = (*((line.title, color) for line, color in shown), (plots.UNSEEN, 0))
        merit = axis.merit
        svg = plots.axis_plot(shown, axis, merit.thresholds(contents.declared.thresholds), legend=legend)
        note = f"{len(lines) - len(shown)} more lines are in report.json." if len(lines) > len(shown) else ""
        if svg:
            shape = "band" if axis.ordered else "bar"
            caption = f"Median over private {merit.noun}s; the {shape} is its 95 % interval over captured batches."
            plot = Plot(
                svg,
                f"Median {merit.word} against {axis.title}, one line for each attack and setting",
                caption,
            )
            said = tuple(answer(axis, line, axis.threshold) for line, _ in shown)
            table = axis_table(axis, axis.threshold)
            found.append(Curves(f"Leakage over {axis.title}", (plot,), words, note, said, table))
    return found


def _shares(contents: Contents, colors: Mapping[str, int]) -> list[Curves]:
    """How the figures of merit are distributed, for each data set."""
    found: list[Curves] = []
    by_data: dict[tuple[str, Merit], dict[str, list[float]]] = {}
    chance: dict[tuple[str, Merit], list[float]] = {}
    for record in contents.records:
        where = (record.data, record.merit)
        by_data.setdefault(where, {}).setdefault(record.attack, []).extend(record.leakage)
        best = [baseline_best(record, row) for row in range(record.batch_size)]
        chance.setdefault(where, []).extend(best)
    for (data, merit), attacks in by_data.items():
        lines: list[tuple[Sequence[float], int]] = [(values, colors[attack]) for attack, values in attacks.items()]
        marks = merit.thresholds(contents.declared.thresholds)
        svg = plots.share_plot([(chance[data, merit], 0), *lines], marks, merit)
        if svg and len(contents.records) > 1:
            legend = (*((attack, colors[attack]) for attack in attacks), (plots.UNSEEN, 0))
            plot = Plot(
                svg,
                f"Share of the private {merit.noun}s of {data} that reach a {merit.word}, one line for each attack",
                f"How many private {merit.noun}s came back at least this well; gray: the best answer without the "
                "update.",
            )
            found.append(Curves(f"Distribution, {data}", (plot,), legend))
    return found


def _courses(records: Sequence[TrialRecord], colors: Mapping[str, int]) -> list[Curves]:
    """How the images came about, for each data set and batch size, and the layers of each attack."""
    collected: dict[tuple[str, int, Merit], list[TrialRecord]] = {}
    for record in records:
        collected.setdefault((record.data, record.batch_size, record.merit), []).append(record)
    found: list[Curves] = []
    for (data, batch, merit), members in collected.items():
        series = [colors[record.attack] for record in members]
        candidates = (
            Plot(
                plots.leakage_plot(members, series, merit),
                f"{merit.title} of the best candidate against evaluations, one line for each private {merit.noun}",
                f"{merit.title} of the best candidate so far; the attacker cannot see this curve.",
            ),
            Plot(
                plots.objective_plot(members, series),
                "Objective against evaluations, one line for each trial",
                "Objective: how far the candidate’s update is from the shared one.",
            ),
        )
        kept = tuple(plot for plot in candidates if plot.svg)
        if kept:
            legend = tuple((name, colors[name]) for name in dict.fromkeys(record.attack for record in members))
            found.append(Curves(data if batch == 1 else f"{data}, {batch} in a batch", kept, legend))
    return [*found, *layer_curves(records)]


def layer_curves(records: Sequence[TrialRecord], *, legend: bool = False) -> list[Curves]:
    """Distances layer by layer, for each attack and model, whether the attack saw the layer or not.

    Args:
        records: trials whose medians are drawn.
        legend: put one inside each plot.

    Returns:
        One section for each attack and model.
    """
    collected: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in records:
        if record.course.layers:
            model = str(mapping(record.spec.get("model")).get("name", "model"))
            collected.setdefault((record.attack, model), []).append(record)
    found: list[Curves] = []
    for (attack, model), members in collected.items():
        svg, names = plots.layer_plot(members, legend=legend)
        if svg:
            plot = Plot(
                svg,
                f"Distance of each layer's gradient against evaluations of {attack} on {model}, one line for each",
                "Relative distance of each weight’s gradient from the shared one; medians over these trials.",
            )
            layers = tuple((name, position) for position, name in enumerate(names, start=1))
            found.append(Curves(f"Layers, {attack} on {model}", (plot,), layers))
    return found


def baseline_best(record: TrialRecord, row: int) -> float:
    """The highest figure of merit of an answer without any attack, for one private example; NaN if there is none."""
    columns = [column_numbers(scores, record.merit.score, record.batch_size) for scores in record.baselines.values()]
    return max((column[row] for column in columns if column[row] == column[row]), default=float("nan"))
