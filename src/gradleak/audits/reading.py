"""From a file, a mapping or a shipped name to the checked spec of an audit."""

from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from gradleak.audits.checking import semantic_faults
from gradleak.audits.overrides import Source
from gradleak.audits.sources import Problems, checked, source_of, specs_in
from gradleak.audits.spec import AuditSpec


def shipped_specs() -> dict[str, Traversable]:
    """The files of the audit specs that come with the package, by name, in alphabetical order."""
    return specs_in("audits")


def read_spec(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> AuditSpec:
    """A checked spec.

    Args:
        spec: a YAML file, a mapping, or the name of a shipped spec, which wins over a file of the same name.
        overrides: `path=value` each, as after `--set`.

    Returns:
        The spec, defaults filled in.

    Raises:
        BadInput: with every mistake, each as `FILE:LINE path: expected ..., got ...; what to do`.
    """
    source, problems = read_source(spec, overrides)
    return checked_spec(source, problems)


def read_source(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[Source, Problems]:
    """The raw data of a spec, and what is wrong with file and overrides as such; see `source_of`."""
    return source_of(spec, overrides, shipped_specs(), "audit")


def checked_spec(source: Source, problems: Sequence[tuple[int, str]] = ()) -> AuditSpec:
    """The spec that raw data describe; see `checked`."""
    return checked(source, problems, AuditSpec, semantic_faults)
