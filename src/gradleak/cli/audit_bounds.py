"""The bounds of `gradleak audit`: computing them, what they will take, and what they say."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from gradleak.audits.audit import DeclaredAudit, run_declared_bounds
from gradleak.audits.bounding import expected_seconds
from gradleak.audits.bounds import read_bounds
from gradleak.audits.ceiling_words import TOKENS
from gradleak.audits.report.ceilings import MOST_SENTENCES
from gradleak.audits.store import Contents, ceiling_sentence
from gradleak.cli.console import console, duration
from gradleak.cli.plain_lines import PlainLines

if TYPE_CHECKING:
    from gradleak.audits.run import AuditOutcome


def compute_bounds(
    declared: DeclaredAudit, out: Path, outcome: "AuditOutcome", command: str, *, retry_errors: bool
) -> "AuditOutcome":
    """Compute the bounds that the folder does not hold yet.

    Returns:
        The outcome of the trials, stopped if this was interrupted.

    Raises:
        BadInput: when the folder cannot be used.
    """
    lines = PlainLines()
    found = run_declared_bounds(
        declared,
        out,
        retry_errors=retry_errors,
        notify=lambda done, planned: lines.show("", f"Bounds: {done} of {planned}"),
    )
    if not found.interrupted:
        return outcome
    stopped = f"interrupted after {found.done} of {found.planned} bounds. Nothing is lost; go on with: {command}"
    return replace(outcome, interrupted=True, stopped=stopped)


def print_bounds(contents: Contents) -> None:
    """A sentence for each of the first settings."""
    ceilings = list(contents.ceilings.values())
    if contents.without_bounds:
        console.print(Text(f"| {contents.without_bounds}"), soft_wrap=True)
    for ceiling in ceilings[:MOST_SENTENCES]:
        console.print(Text(f"| {ceiling_sentence(ceiling, brief=True)}"), soft_wrap=True)
    if len(ceilings) > MOST_SENTENCES:
        console.print(f"| Bounds of {len(ceilings) - MOST_SENTENCES} more settings are in the report", soft_wrap=True)


def bound_facts(declared: DeclaredAudit, out: Path | None) -> dict[str, Any]:
    """How many bounds there will be, and about how many seconds those take that are not there."""
    known = _known(out)
    done = sum(one.id in known for one in declared.bounds)
    return {
        "bounds": len(declared.bounds),
        "bounds_done": done,
        "bound_seconds": expected_seconds(declared.bounds, known),
    }


def bound_lines(declared: DeclaredAudit, out: Path | None) -> list[str]:
    """The same in words; nothing for an audit without bounds."""
    bound = declared.spec.bound
    if bound is None:
        return []
    if not declared.bounds:
        return [f"Bounds: none. {TOKENS}"]
    facts = bound_facts(declared, out)
    settings = len({one.setting for one in declared.bounds})
    each = min(bound.batches, declared.spec.trials)
    there = f", {facts['bounds_done']} of them there already" if facts["bounds_done"] else ""
    return [
        f"Bounds: {settings} settings x {each} captured batches = {facts['bounds']}{there}, about "
        f"{duration(facts['bound_seconds'])} one after the other"
    ]


def _known(out: Path | None) -> frozenset[str]:
    return frozenset(record.id for record in read_bounds(out)) if out is not None and out.is_dir() else frozenset()
