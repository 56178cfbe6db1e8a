"""`gradleak.audit`: a whole audit in one call, as `gradleak audit` runs it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradleak.audits.declared import SPEC_FILE
from gradleak.audits.plan import PlannedTrial, plan
from gradleak.audits.reading import checked_spec, read_source
from gradleak.audits.spec import AuditSpec
from gradleak.audits.store import Store

if TYPE_CHECKING:
    from gradleak.audits.run import AuditOutcome, Progress


@dataclass(frozen=True)
class DeclaredAudit:
    """A checked spec with everything that it plans.

    Attributes:
        spec: defaults filled in.
        comment: what it answers, from the first line of its file.
        planned: the trials.
    """

    spec: AuditSpec
    comment: str
    planned: tuple[PlannedTrial, ...]

    @property
    def spec_file(self) -> bytes:
        """The effective spec as a file, from which the same trials are planned."""
        return self.spec.to_yaml(self.comment).encode()


def declare(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> DeclaredAudit:
    """Read, check and plan; nothing is run or written.

    Args:
        spec: a YAML file, a mapping, or the name of a shipped spec.
        overrides: `path=value` each, as after `--set`.

    Returns:
        The audit.

    Raises:
        BadInput: with every mistake of the spec.
    """
    source, problems = read_source(spec, overrides)
    checked = checked_spec(source, problems)
    return DeclaredAudit(checked, source.comment, plan(checked))


def run_declared(
    declared: DeclaredAudit,
    out: str | Path,
    *,
    retry_errors: bool = False,
    command: str | None = None,
    notify: "Callable[[Progress], None] | None" = None,
) -> "AuditOutcome":
    """Run what the folder does not hold yet, and keep the effective spec there as `spec.yaml`.

    Args:
        declared: what to run.
        out: the folder; made if there is none.
        retry_errors: run failed trials again.
        command: the command line that repeats it, for the records.
        notify: told what happens.

    Returns:
        What the folder holds now.

    Raises:
        BadInput: when the folder or the backend cannot be used.
    """
    from gradleak.audits.run import run_audit

    store = Store.open(out)
    store.write(SPEC_FILE, declared.spec_file)
    return run_audit(
        declared.planned, store, declared.spec.run, retry_errors=retry_errors, command=command, notify=notify
    )


def audit(
    spec: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    retry_errors: bool = False,
    notify: "Callable[[Progress], None] | None" = None,
) -> "AuditOutcome":
    """Run a declared grid of trials, or what is left of it.

    The same call resumes: trials that the folder holds are not run again.

    Args:
        spec: a YAML file, a mapping with the same keys, or the name of a shipped spec.
        out: the folder for `trials.jsonl`, images and `spec.yaml`.
        overrides: values in place of those of the spec, as after `--set`, such as `client.mode=train`.
        retry_errors: run failed trials again.
        notify: called after each trial.

    Returns:
        How many trials are planned, finished, failed and missing.

    Raises:
        BadInput: with every mistake of the spec, or when the folder or the backend cannot be used.
    """
    return run_declared(declare(spec, overrides), out, retry_errors=retry_errors, notify=notify)
