"""What an audit declared before it ran, as far as a report needs it: read from the spec that lies in the run folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from gradleak.audits.summary import CLOSE_DB, RECOGNIZABLE_DB

SPEC_FILE = "spec.yaml"
"""The effective spec of a run, in its folder."""


@dataclass(frozen=True)
class DeclaredLimit:
    """A limit: the success rate at `success_rate_at` (dB, or the units of `score`) has to stay below `below`."""

    success_rate_at: float
    below: float
    score: str | None = None


@dataclass(frozen=True)
class Declared:
    """Name, thresholds and limits of an audit.

    Attributes:
        name: of the audit; empty if the folder holds no spec.
        thresholds: at which success rates are given: PSNR in dB, or token accuracy.
        limits: what must not be exceeded.
        priced: whether settings are trained to learn their accuracy.
        bounded: whether bounds were asked for.
    """

    name: str = ""
    thresholds: tuple[float, ...] = (RECOGNIZABLE_DB, CLOSE_DB)
    limits: tuple[DeclaredLimit, ...] = ()
    priced: bool = False
    bounded: bool = False


def read_declared(folder: Path) -> Declared:
    """The declarations of a run folder; the usual thresholds where it has none, or none that can be read."""
    try:
        document = yaml.safe_load((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return Declared()
    if not isinstance(document, Mapping):
        return Declared()
    spec = cast("Mapping[str, object]", document)
    thresholds = tuple(float(value) for value in _entries(spec.get("threshold")) if isinstance(value, int | float))
    return Declared(
        str(spec.get("name", "")),
        thresholds or Declared().thresholds,
        tuple(limit for limit in map(_limit, _entries(spec.get("limit"))) if limit is not None),
        spec.get("price") is not None,
        spec.get("bound") is not None,
    )


def _entries(value: object) -> list[object]:
    """One entry or a list of entries as a list."""
    if value is None:
        return []
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _limit(value: object) -> DeclaredLimit | None:
    match value:
        case {"success_rate_at": int() | float() as at, "below": int() | float() as below}:
            score = cast("Mapping[str, object]", value).get("score")
            return DeclaredLimit(float(at), float(below), score if isinstance(score, str) else None)
        case _:
            return None
