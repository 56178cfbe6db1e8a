"""What stands on the page: the template's data, section by section."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gradleak.audits.report import plots, wall, words
from gradleak.audits.store import (
    CLOSE_DB,
    RECOGNIZABLE_DB,
    BaselineRow,
    Contents,
    Group,
    ImageLeak,
    Store,
    TrialRecord,
    component_list,
    mapping,
    settings_text,
)

SHOWN = 400
"""A report shows the pictures of at most this many trials, those with the highest PSNR."""


@dataclass(frozen=True)
class Block:
    """Rows of the leakage table that share data set, batch size, client, defenses and threat model.

    Attributes:
        title: the data set.
        setting: batch size, client, defenses.
        rows: each attack, with the baselines that follow it: those of its own examples, once for all attacks that
            share them.
    """

    title: str
    setting: str
    rows: tuple[tuple[Group, tuple[BaselineRow, ...]], ...]


@dataclass(frozen=True)
class Curves:
    """The plots of one data set, as SVG markup of ours, with the attacks in their colors."""

    title: str
    objective: str
    psnr: str
    legend: tuple[tuple[str, int], ...]


def render(store: Store) -> str:
    """The whole page.

    Args:
        store: what to read.

    Returns:
        HTML.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def source(name: str) -> str:
        return resources.files("gradleak.audits.report").joinpath(name).read_text(encoding="utf-8")

    contents = store.contents()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., object]] = {
        "db": words.decibels,
        "fixed": words.fixed,
        "whole": words.whole,
        "sci": words.scientific,
        "of": words.of,
        "interval": words.percent_interval,
        "baseline": words.baseline,
        "svg": Markup,  # only ever applied to plots, which hold no text from records
        "plain_json": _indented,
    }
    environment.filters.update(filters)
    template = environment.from_string(source("report.html.j2"))
    return template.render(css=Markup(source("report.css")), **_data(store, contents))


def _indented(spec: object) -> str:
    return json.dumps(spec, indent=2, ensure_ascii=False)


def _data(store: Store, contents: Contents) -> dict[str, Any]:
    records = contents.records
    colors = _colors(records)
    shown = _shown(records)
    cards = [wall.card(store, record, colors[record.attack]) for record in shown]
    for record in shown:
        store.picture(record)
    return {
        "folder": store.folder.resolve().name,
        "warnings": contents.warnings,
        "summary": contents.summary,
        "verdict": words.verdict(contents.summary),
        "statuses": words.STATUS,
        "short_statuses": words.SHORT_STATUS,
        "close": CLOSE_DB,
        "recognizable": RECOGNIZABLE_DB,
        "ledger": _ledger(records),
        "blocks": _blocks(contents.summary.groups),
        "colors": colors,
        "cards": cards,
        "hero": _hero(cards, contents.summary.worst),
        "unshown": len(records) - len(shown),
        "curves": _curves(shown, colors),
        "failures": [record for record in records if record.status == "error"],
        "records": records,
        "commands": sorted({str(c) for record in records if (c := record.environment.get("command"))}),
        "environments": _environments(records),
    }


def _colors(records: Sequence[TrialRecord]) -> dict[str, int]:
    """A number from 1 for each attack, in the order of appearance."""
    names = dict.fromkeys(record.attack for record in records)
    return {name: position % plots.series_count() + 1 for position, name in enumerate(names)}


def _shown(records: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    if len(records) <= SHOWN:
        return tuple(records)
    highest = sorted(records, key=lambda record: max((v for v in record.numbers("psnr") if v == v), default=-1.0))
    kept = {record.id for record in highest[-SHOWN:]}
    return tuple(record for record in records if record.id in kept)


def _hero(cards: Sequence[wall.Card], worst: ImageLeak | None) -> wall.Pair | None:
    """The pictures of the worst case, if it has some."""
    found = [card.pairs for card in cards if worst is not None and card.record.id == worst.trial]
    return found[0][worst.row] if worst is not None and found and worst.row < len(found[0]) else None


def _blocks(groups: Sequence[Group]) -> list[Block]:
    collected: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        key = (group.data, str(group.batch_size), group.client, group.defenses, group.threat)
        collected.setdefault(key, []).append(group)
    blocks: list[Block] = []
    for (data, batch, client, defenses, _), members in collected.items():
        setting = f"{batch} image{'' if batch == '1' else 's'} in a batch, client {client}, {defenses or 'no defense'}"
        shared = all(member.baselines == members[0].baselines for member in members)
        rows = [
            (member, () if shared and position < len(members) - 1 else member.baselines)
            for position, member in enumerate(members)
        ]
        blocks.append(Block(data, setting, tuple(rows)))
    return blocks


def _curves(records: Sequence[TrialRecord], colors: Mapping[str, int]) -> list[Curves]:
    """Two plots for each data set and batch size."""
    collected: dict[tuple[str, int], list[TrialRecord]] = {}
    for record in records:
        collected.setdefault((record.data, record.batch_size), []).append(record)
    found: list[Curves] = []
    for (data, batch), members in collected.items():
        series = [colors[record.attack] for record in members]
        objective = plots.objective_plot(members, series)
        psnr = plots.psnr_plot(members, series, (RECOGNIZABLE_DB, CLOSE_DB))
        if objective or psnr:
            legend = tuple((name, colors[name]) for name in dict.fromkeys(record.attack for record in members))
            found.append(Curves(data if batch == 1 else f"{data}, {batch} in a batch", objective, psnr, legend))
    return found


def _ledger(records: Sequence[TrialRecord]) -> list[tuple[str, list[tuple[str, bool, str]]]]:
    """For each threat model its line and the facts: name, whether given, and what it was in these trials."""
    collected: dict[str, list[TrialRecord]] = {}
    for record in records:
        collected.setdefault(record.threat, []).append(record)
    return [(line, _facts(members)) for line, members in collected.items()]


def _facts(records: Sequence[TrialRecord]) -> list[tuple[str, bool, str]]:
    switches = mapping(records[0].spec.get("threat"))
    values = {
        "batch_size_known": _distinct(str(record.batch_size) for record in records),
        "client_known": _distinct(settings_text(record.spec.get("client")) for record in records),
        "defense_known": _distinct(
            ", ".join(map(settings_text, component_list(record.spec.get("defenses")))) or "none used"
            for record in records
        ),
    }
    return [
        (name.removesuffix("_known").replace("_", " "), known, values.get(name, ""))
        for name, known in switches.items()
        if isinstance(known, bool)
    ]


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _environments(records: Sequence[TrialRecord]) -> list[dict[str, str | int]]:
    """Distinct environments, commands aside."""
    found: list[dict[str, str | int]] = []
    for record in records:
        facts = {name: value for name, value in record.environment.items() if name != "command" and value is not None}
        if facts and facts not in found:
            found.append(facts)
    return found
