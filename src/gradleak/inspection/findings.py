"""From what ran to what was found about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from gradleak.clients.stateless import Mode
from gradleak.inspection.probing import double_backward_error, probe
from gradleak.inspection.recording import Record
from gradleak.inspection.result import Finding, Kind

BENDING: frozenset[Kind] = frozenset({"step", "jump", "choice", "piecewise linear", "kink"})
"""Kinds at which a search by curvature stalls."""

DETAILS: Mapping[Kind, str] = {
    "no double backward": "autograd cannot differentiate its derivative",
    "step": "constant between jumps: derivative zero almost everywhere",
    "jump": "its value jumps",
    "choice": "an index or truth value: what it selects jumps or bends there",
    "piecewise linear": "its derivative jumps; second derivative zero almost everywhere",
    "kink": "its derivative jumps; curved between",
    "curvature jump": "only its second derivative jumps, which stops no search",
    "random": "draws random numbers",
    "custom backward": "a custom Function: its derivatives are what its author wrote",
}
"""What each kind means, in a line."""


@dataclass(eq=False)
class _Seen:
    """Places and modes of one finding while they are collected."""

    places: list[str] = field(default_factory=list[str])
    modes: list[Mode] = field(default_factory=list[Mode])
    detail: str = ""


def findings(records: Sequence[tuple[Mode, Record]], random: Sequence[Mode], seed: int) -> tuple[Finding, ...]:
    """Probe every kind of kernel call once, and gather what was found.

    Args:
        records: what the model ran in each mode.
        random: modes in which two runs differ; elsewhere kernels that can draw random numbers do not matter.
        seed: of the probes.

    Returns:
        Findings, worst first, in the order in which they ran otherwise.
    """
    probed: dict[str, list[tuple[str, Kind, str]]] = {}
    seen: dict[tuple[str, Kind, bool], _Seen] = {}

    def note(name: str, kind: Kind, places: Sequence[str], mode: Mode, *, on_weights: bool = False, detail: str = ""):
        entry = seen.setdefault((name, kind, on_weights), _Seen(detail=detail or DETAILS[kind]))
        entry.places += [place for place in places if place not in entry.places]
        if mode not in entry.modes:
            entry.modes.append(mode)

    for mode, record in records:
        for key, call in record.calls.items():
            if key not in probed:
                probed[key] = []
                kind = probe(call, seed)
                name = call.name
                if kind in BENDING and call.outer is not None:
                    # Kinks of parts may cancel: softsign is made of abs, and is smoother than that.
                    whole = probe(call.outer, seed)
                    if whole is None or whole == "curvature jump":
                        kind, name = whole, call.outer.name
                if kind is not None and kind != "random":  # those are known by their tag, below
                    probed[key].append((name, kind, ""))
                if error := double_backward_error(call):
                    probed[key].append((call.name, "no double backward", error))
            for name, kind, detail in probed[key]:
                note(name, kind, record.places[key], mode, on_weights=call.on_weights, detail=detail)
        if mode in random:
            for name, places in record.random.items():
                note(name, "random", places, mode)
        for name, places in record.functions.items():
            if name in record.once:
                note(name, "no double backward", places, mode, detail="marked once_differentiable")
            else:
                note(name, "custom backward", places, mode)
    order = {kind: rank for rank, kind in enumerate(get_args(Kind))}
    found = [
        Finding(name, kind, tuple(entry.places), tuple(entry.modes), on_weights, entry.detail)
        for (name, kind, on_weights), entry in seen.items()
    ]
    return tuple(sorted(found, key=lambda finding: order[finding.kind]))
