"""Bounds on the page: sentences, the figures of every setting, and under what they hold."""

import math
from dataclasses import dataclass

from gradleak.audits.report.tables import Table
from gradleak.audits.report.words import NOTHING, decibels
from gradleak.audits.store import Ceiling, Contents, Group, Span, ceiling_sentence

MOST_SENTENCES = 6
"""Largest number of sentences about bounds that stand with the verdict; all of them stand with the bounds."""


@dataclass(frozen=True)
class CeilingSection:
    """The bounds of an audit.

    Attributes:
        findings: one line for each of the first settings, for the verdict.
        sentences: one line for each setting.
        table: one row for each setting.
        assumptions: settings in words with the sentences that they share.
        contents: of the store.
    """

    findings: tuple[str, ...]
    sentences: tuple[str, ...]
    table: Table
    assumptions: tuple[tuple[str, tuple[str, ...]], ...]
    contents: Contents

    def cell(self, group: Group) -> tuple[str, str]:
        """The ceiling of the setting of a group, for the table of attacks: the median, and in small its ends."""
        found = self.contents.ceiling_of(group)
        if found is None:
            return NOTHING, ""
        if found.trouble:
            return NOTHING, found.trouble
        ends = decibels(found.psnr.least), decibels(found.psnr.most)
        return decibels(found.psnr.median), "" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def ceiling_section(contents: Contents) -> CeilingSection | None:
    """The bounds of an audit; None for an audit without."""
    found = list(contents.ceilings.values())
    if not found:
        return None
    findings = tuple(ceiling_sentence(one, brief=True) for one in found[:MOST_SENTENCES])
    return CeilingSection(findings, tuple(map(ceiling_sentence, found)), _table(found), _assumptions(found), contents)


def _table(ceilings: list[Ceiling]) -> Table:
    priors = sorted({one.prior for one in ceilings if one.prior})
    named = f' "{priors[0]}"' if len(priors) == 1 else ""
    header = (
        "setting",
        "batches",
        "unbiased ceiling, dB [min, max]",
        *((f"ceiling with the prior{named}, dB [min, max]",) if priors else ()),
        "attack",
        "reached there, dB",
        "above the unbiased ceiling",
        "free directions",
        "known to 8 bits, %",
    )
    return Table(header, tuple(_row(one, len(priors)) for one in ceilings))


def _row(one: Ceiling, priors: int) -> tuple[str, ...]:
    """Of a setting, in an audit with so many priors; the cell names its own where there are several."""
    best = next((reach for reach in one.reached if not math.isnan(reach.psnr)), None)
    free = NOTHING if math.isnan(one.free.median) else f"{_whole(one.free)} of {one.unknowns}"
    by_noise = one.noisy or one.without > 0
    prior = _span(one.prior_psnr) if by_noise else NOTHING
    if priors > 1 and prior != NOTHING:
        prior = f"{prior}, {one.prior}"
    return (
        one.label,
        str(one.batches),
        one.trouble or _span(one.psnr) + ("" if one.noisy else ", by rounding"),
        *((prior,) if priors else ()),
        NOTHING if best is None else best.attack,
        NOTHING if best is None else decibels(best.psnr),
        NOTHING if best is None or not one.noisy or math.isnan(best.ahead) else f"{best.above} of {best.batches}",
        free,
        NOTHING if math.isnan(one.recoverable) else f"{100 * one.recoverable:.0f}",
    )


def _assumptions(ceilings: list[Ceiling]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Sentences with the settings that they are about; without a title where all settings share them."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for one in ceilings:
        if one.assumptions:
            shared.setdefault(one.assumptions, []).append(one.label)
    if len(shared) == 1:
        return tuple(("", sentences) for sentences in shared)
    return tuple(("; ".join(labels), sentences) for sentences, labels in shared.items())


def _span(span: Span) -> str:
    if math.isnan(span.median):
        return NOTHING
    if decibels(span.least) == decibels(span.most):
        return decibels(span.median)
    return f"{decibels(span.median)} [{decibels(span.least)}, {decibels(span.most)}]"


def _whole(span: Span) -> str:
    least, most = round(span.least), round(span.most)
    return str(least) if least == most else f"{least} to {most}"
