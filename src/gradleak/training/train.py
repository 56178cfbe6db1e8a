"""`gradleak.train`: a whole training in one call, as `gradleak train` runs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from gradleak.audits.sources import checked, source_of, specs_in
from gradleak.training.checking import semantic_faults
from gradleak.training.run import Notify, TrainOutcome, run_training
from gradleak.training.spec import TrainSpec


@dataclass(frozen=True)
class DeclaredTraining:
    """A checked spec.

    Attributes:
        spec: defaults filled in.
        comment: what it trains, from the first line of its file.
    """

    spec: TrainSpec
    comment: str


def shipped_trainings() -> dict[str, Traversable]:
    """The files of the training specs that come with the package, by name, in alphabetical order."""
    return specs_in("training")


def declare_training(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> DeclaredTraining:
    """Read and check; nothing is trained or written.

    Args:
        spec: a YAML file, a mapping, or the name of a shipped spec.
        overrides: `path=value` each, as after `--set`.

    Returns:
        The training.

    Raises:
        BadInput: with every mistake of the spec.
    """
    source, problems = source_of(spec, overrides, shipped_trainings(), "training")
    return DeclaredTraining(checked(source, problems, TrainSpec, semantic_faults), source.comment)


def train(
    spec: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    notify: Notify | None = None,
) -> TrainOutcome:
    """Train a model and keep it at declared fractions of training, or do what is left of it.

    The same call resumes, and ends with the same bits as a training that was never interrupted.

    Args:
        spec: a YAML file, a mapping with the same keys, or the name of a shipped spec.
        out: the folder for checkpoints (`stage-0.1.safetensors`, ...), `history.jsonl` and `spec.yaml`.
        overrides: values in place of those of the spec, as after `--set`, such as `data.name=cifar10.tar`.
        notify: called after each step or round.

    Returns:
        Status and checkpoints.

    Raises:
        BadInput: with every mistake of the spec, or when the folder cannot be used or was begun with another spec.
    """
    declared = declare_training(spec, overrides)
    return run_training(declared.spec, Path(out), declared.comment, notify)
