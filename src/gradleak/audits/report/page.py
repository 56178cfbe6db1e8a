"""What stands on the page: the template's data, section by section."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gradleak.audits.report import choosing, plots, wall, words
from gradleak.audits.report.answers import SMALL, answers_of
from gradleak.audits.report.ceilings import ceiling_section
from gradleak.audits.report.choosing import choose
from gradleak.audits.report.curves import curves_of
from gradleak.audits.report.frontiers import sections
from gradleak.audits.report.text_wall import TextCard, TextPair, text_card
from gradleak.audits.store import (
    MERITS,
    PSNR,
    TOKEN_ACCURACY,
    BaselineRow,
    Contents,
    Group,
    ImageLeak,
    Merit,
    Store,
    TrialRecord,
    component_list,
    mapping,
    settings_of,
    settings_text,
)

LISTED = 60
"""Up to so many trials a report lists the full settings of each; beyond, those of one trial of each group."""

MOST_ANSWERS = 8
"""Largest number of sentences about curves that stand with the verdict; all of them stand with the curves."""


@dataclass(frozen=True)
class Block:
    """Rows of the leakage table that share data set, batch size, client, defenses and threat model.

    Attributes:
        title: the data set.
        setting: batch size, client, defenses.
        merit: by what the leakage of its rows is judged.
        rows: each attack, with the baselines that follow it: those of its own examples, once for all attacks that
            share them.
        differences: how far the attacks are apart on the same updates, in words.
    """

    title: str
    setting: str
    merit: Merit
    rows: tuple[tuple[Group, tuple[BaselineRow, ...]], ...]
    differences: tuple[str, ...]


def render(store: Store, contents: Contents, *, brief: bool = False) -> str:
    """The whole page.

    Args:
        store: holds the pictures.
        contents: its records.
        brief: only what fits on one printed page.

    Returns:
        HTML.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def source(name: str) -> str:
        return resources.files("gradleak.audits.report").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., object]] = {
        "db": words.decibels,
        "fixed": words.fixed,
        "whole": words.whole,
        "sci": words.scientific,
        "share": words.share,
        "of": words.of,
        "interval": words.percent_interval,
        "baseline": words.baseline,
        "svg": Markup,  # only ever applied to plots, which hold no text from records
        "plain_json": _indented,
    }
    environment.filters.update(filters)
    template = environment.from_string(source("report.html.j2"))
    return template.render(css=Markup(source("report.css")), brief=brief, **_data(store, contents, brief))


def _indented(spec: object) -> str:
    return json.dumps(spec, indent=2, ensure_ascii=False)


def _data(store: Store, contents: Contents, brief: bool) -> dict[str, Any]:
    records, summary = contents.records, contents.summary
    colors = _colors(records)
    shown = choosing.Shown(()) if brief else choose(records)
    walls = [
        (title, note, [_card(store, record, colors[record.attack]) for record in members])
        for title, note, members in _walls(shown)
    ]
    cards = [card for _, _, members in walls for card in members]
    for card in cards:
        if isinstance(card, wall.Card):
            store.picture(card.record)
    leak, bounds = summary.worst, ceiling_section(contents)
    worst = None if leak is None else next((record for record in records if record.id == leak.trial), None)
    return {
        "folder": contents.declared.name or store.folder.resolve().name,
        "warnings": contents.warnings,
        "summary": summary,
        "merit": summary.merit,
        "merits": list(dict.fromkeys(record.merit for record in records)) or [PSNR],
        "limits": [(one, words.cell(one.cell)) for one in contents.limits],
        "verdict": words.verdict(summary),
        "answers": answers_of(contents)[:MOST_ANSWERS],
        "frontiers": sections(contents),
        "bounds": bounds,
        "bound_findings": bounds.findings if bounds else [f"{why}."] if (why := contents.without_bounds) else [],
        "statuses": words.STATUS,
        "short_statuses": words.SHORT_STATUS,
        "small": SMALL,
        "shows_images": any(isinstance(card, wall.Card) for card in cards),
        "shows_texts": any(isinstance(card, TextCard) for card in cards),
        "ledger": _ledger(records),
        "blocks": _blocks(summary.groups, colors),
        "colors": colors,
        "walls": walls,
        "filmed": cards[: choosing.MOST_STRIPS],
        "hero": _hero(store, worst, leak),
        "curves": [] if brief else curves_of(contents, shown.drawn, colors),
        "failures": [record for record in records if record.status == "error"][:LISTED],
        "listed": records if len(records) <= LISTED else _one_of_each(records),
        "records": records,
        "commands": sorted({str(c) for record in records if (c := record.environment.get("command"))}),
        "environments": _environments(records),
    }


def _walls(shown: choosing.Shown) -> list[tuple[str, str, tuple[TrialRecord, ...]]]:
    """Title, note and trials of each group of pictures."""
    if shown.everything:
        return [("", "", shown.drawn)]
    drawn = "Captured batches drawn at random with a fixed seed, whatever their scores; each by every attack."
    return [
        ("Drawn at random", drawn, shown.drawn),
        ("The highest of each attack", "What a victim has to reckon with.", shown.highest),
        ("The lowest of each attack", "Where the attack found least.", shown.lowest),
    ]


def _one_of_each(records: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The first trial of each group, and of each group no more than that."""
    found: dict[str, TrialRecord] = {}
    for record in records:
        found.setdefault(json.dumps(settings_of(record), sort_keys=True), record)
    return tuple(found.values())[:LISTED]


def _colors(records: Sequence[TrialRecord]) -> dict[str, int]:
    """A number from 1 for each attack, in the order of appearance."""
    names = dict.fromkeys(record.attack for record in records)
    return {name: position % plots.series_count() + 1 for position, name in enumerate(names)}


def _card(store: Store, record: TrialRecord, color: int) -> wall.Card | TextCard:
    """A trial with its pictures, or with its texts."""
    return wall.card(store, record, color) if record.merit == PSNR else text_card(store, record, color)


def _hero(store: Store, record: TrialRecord | None, worst: ImageLeak | None) -> wall.Pair | TextPair | None:
    """The pictures or the texts of the worst case, if it has some."""
    if record is None or worst is None:
        return None
    pairs = _card(store, record, 0).pairs
    return pairs[worst.row] if worst.row < len(pairs) else None


def _blocks(groups: Sequence[Group], colors: Mapping[str, int]) -> list[Block]:
    collected: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        model = words.model(group.settings)
        key = (group.data, str(group.batch_size), group.client, group.defenses, model, group.threat, group.score)
        collected.setdefault(key, []).append(group)
    blocks: list[Block] = []
    named = len({key[4] for key in collected}) > 1 or any("model.trained.data" in group.settings for group in groups)
    several = len({key[5] for key in collected}) > 1
    for (data, batch, client, defenses, model, threat, score), found in collected.items():
        members = sorted(found, key=lambda group: colors[group.attack])  # alike in every block
        noun = MERITS[score].noun
        setting = f"{batch} {noun}{'' if batch == '1' else 's'} in a batch, client {client}, {defenses or 'no defense'}"
        setting += (f", model {model}" if named else "") + (f"; attacker: {threat}" if several else "")
        shared = all(member.baselines == members[0].baselines for member in members)
        rows = [
            (member, () if shared and position < len(members) - 1 else member.baselines)
            for position, member in enumerate(members)
        ]
        apart = [difference for member in members for difference in member.differences if difference.median > 0]
        blocks.append(Block(data, setting, MERITS[score], tuple(rows), tuple(map(words.difference, apart))))
    return blocks


_FACTS = {"order_known": "order of batches"}
"""Facts whose setting does not say it all."""


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
    ordered = any(_draws_order(record.spec.get("client")) for record in records)
    # Images have no length, and most clients no order.
    applies = {"order_known": ordered, "lengths_known": any(record.merit == TOKEN_ACCURACY for record in records)}
    return [
        (_FACTS.get(name, name.removesuffix("_known").replace("_", " ")), known, values.get(name, ""))
        for name, known in switches.items()
        if isinstance(known, bool) and (known or applies.get(name, True))
    ]


def _draws_order(client: object) -> bool:
    """Whether a client, or one within it, goes through its examples in an order of its own."""
    settings = mapping(client)
    return "order" in settings or any(map(_draws_order, component_list(settings.get("clients"))))


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
