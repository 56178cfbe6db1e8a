"""`gradleak.audit`: a whole audit in one call, as `gradleak audit` runs it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradleak.audits.bounding import PlannedBound, plan_bounds
from gradleak.audits.bounds import BoundOutcome
from gradleak.audits.checkpointed import PendingTraining
from gradleak.audits.declared import SPEC_FILE
from gradleak.audits.plan import PlannedTrial, plan
from gradleak.audits.prices import PriceOutcome
from gradleak.audits.pricing import PlannedPrice, plan_prices
from gradleak.audits.reading import checked_spec, read_source
from gradleak.audits.spec import AuditSpec
from gradleak.audits.store import Store

if TYPE_CHECKING:
    from gradleak.audits.run import AuditOutcome, Progress
    from gradleak.training.run import TrainOutcome, TrainProgress


@dataclass(frozen=True)
class DeclaredAudit:
    """A checked spec with everything that it plans.

    Attributes:
        spec: defaults filled in.
        comment: what it answers, from the first line of its file.
        planned: the trials.
        trainings: those whose checkpoints it needs; as long as one is not done, untrained networks stand in its place.
        prices: trainings that tell what settings cost in accuracy.
        bounds: captured batches of which it is computed what no attacker can do better than.
    """

    spec: AuditSpec
    comment: str
    planned: tuple[PlannedTrial, ...]
    trainings: tuple[PendingTraining, ...] = ()
    prices: tuple[PlannedPrice, ...] = ()
    bounds: tuple[PlannedBound, ...] = ()

    @property
    def spec_file(self) -> bytes:
        """The effective spec as a file, from which the same trials are planned."""
        return self.spec.to_yaml(self.comment).encode()

    @property
    def pending(self) -> tuple[PendingTraining, ...]:
        """The trainings that must come first."""
        return tuple(training for training in self.trainings if not training.done)


def declare(
    spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), out: str | Path | None = None
) -> DeclaredAudit:
    """Read, check and plan; nothing is run or written.

    Args:
        spec: a YAML file, a mapping, or the name of a shipped spec.
        overrides: `path=value` each, as after `--set`.
        out: the folder of the audit, where models are that were trained for it.

    Returns:
        The audit.

    Raises:
        BadInput: with every mistake of the spec.
    """
    source, problems = read_source(spec, overrides)
    checked, trainings = checked_spec(source, problems, None if out is None else Path(out))
    planned = plan(checked)
    prices = plan_prices(checked.price, checked.seed, planned)
    bounds = plan_bounds(checked.bound, planned)
    return DeclaredAudit(checked, source.comment, planned, tuple(trainings), prices, bounds)


def train_models(
    declared: DeclaredAudit, notify: "Callable[[TrainProgress], None] | None" = None
) -> "TrainOutcome | None":
    """Train the models that the audit needs and that are not there yet; afterwards it must be declared again.

    Args:
        declared: with a folder.
        notify: told what happens.

    Returns:
        The outcome of the first training that did not come to its end; None if all did.

    Raises:
        BadInput: when a folder cannot be used.
    """
    from gradleak.training.run import run_training

    for training in declared.pending:
        if training.folder is not None:
            outcome = run_training(training.declared.spec, training.folder, training.declared.comment, notify)
            if not outcome.complete:
                return outcome
    return None


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
        declared: what to run; its models are trained.
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


def run_declared_prices(
    declared: DeclaredAudit,
    out: str | Path,
    *,
    retry_errors: bool = False,
    notify: "Callable[[TrainProgress], None] | None" = None,
) -> PriceOutcome:
    """Train the settings whose accuracy the folder does not hold yet; see `prices.run_prices`."""
    from gradleak.audits.prices import run_prices

    seconds = None if declared.spec.price is None else declared.spec.price.max_seconds
    return run_prices(declared.prices, Path(out), max_seconds=seconds, retry_errors=retry_errors, notify=notify)


def run_declared_bounds(
    declared: DeclaredAudit,
    out: str | Path,
    *,
    retry_errors: bool = False,
    notify: Callable[[int, int], None] | None = None,
) -> BoundOutcome:
    """Compute the bounds that the folder does not hold yet; see `bounds.run_bounds`."""
    from gradleak.audits.bounds import run_bounds

    threads = declared.spec.run.threads
    return run_bounds(declared.bounds, Path(out), retry_errors=retry_errors, threads=threads, notify=notify)


def audit(
    spec: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    retry_errors: bool = False,
    notify: "Callable[[Progress], None] | None" = None,
) -> "AuditOutcome":
    """Run a declared grid of trials, or what is left of it; models with `trained` are trained first.

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
    declared = declare(spec, overrides, out)
    if declared.pending:
        ended = train_models(declared)
        if ended is not None:
            from gradleak.audits.run import AuditOutcome

            count = len(declared.planned)
            return AuditOutcome(count, 0, 0, count, ended.status == "interrupted", ended.message)
        declared = declare(spec, overrides, out)
    outcome = run_declared(declared, out, retry_errors=retry_errors, notify=notify)
    if declared.bounds and not outcome.stopped:
        run_declared_bounds(declared, out, retry_errors=retry_errors)
    if declared.prices and not outcome.stopped:
        run_declared_prices(declared, out, retry_errors=retry_errors)
    return outcome
