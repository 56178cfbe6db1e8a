"""From a file, a mapping or a shipped name to the checked spec of an audit."""

from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from gradleak.audits.checking import semantic_faults
from gradleak.audits.checkpointed import PendingTraining, fill_models
from gradleak.audits.overrides import Source
from gradleak.audits.sources import Problems, checked, raw_of, source_of, specs_in
from gradleak.audits.spec import AuditSpec
from gradleak.errors import BadInput


def shipped_specs() -> dict[str, Traversable]:
    """The files of the audit specs that come with the package, by name, in alphabetical order."""
    return specs_in("audits")


def read_spec(
    spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), out: Path | None = None
) -> AuditSpec:
    """A checked spec.

    Args:
        spec: a YAML file, a mapping, or the name of a shipped spec, which wins over a file of the same name.
        overrides: `path=value` each, as after `--set`.
        out: the folder of the audit, where models are that were trained for it.

    Returns:
        The spec, defaults and what checkpoints say filled in.

    Raises:
        BadInput: with every mistake, each as `FILE:LINE path: expected ..., got ...; what to do`.
    """
    source, problems = read_source(spec, overrides)
    return checked_spec(source, problems, out)[0]


def read_source(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[Source, Problems]:
    """The raw data of a spec, and what is wrong with file and overrides as such; see `source_of`."""
    return source_of(spec, overrides, shipped_specs(), "audit")


def checked_spec(
    source: Source, problems: Sequence[tuple[int, str]] = (), out: Path | None = None
) -> tuple[AuditSpec, list[PendingTraining]]:
    """The spec that raw data describe; see `checked`.

    Args:
        source: the data.
        problems: what is wrong already, told with the rest.
        out: the folder of the audit.

    Returns:
        The spec, and the trainings whose checkpoints it needs.

    Raises:
        BadInput: with every mistake.
    """
    faults, trainings = fill_models(raw_of(source, problems), out)
    if faults:  # what these models are is not known, so nothing that depends on them can be checked
        located = [*problems, *(source.located(fault.path, fault.text) for fault in faults)]
        raise BadInput(text for _, text in sorted(located, key=lambda entry: entry[0]))
    return checked(source, problems, AuditSpec, semantic_faults), trainings
