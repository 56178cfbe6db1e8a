"""Models of an audit that come from `gradleak train`: what their checkpoints say is put in the spec.

So every audit states name, settings, normalization and stage of the model under attack as the checkpoint has them, and
a spec that says otherwise is refused.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from gradleak.audits.faults import Fault, faults_of, shown, structural_faults
from gradleak.audits.positions import Path as Place
from gradleak.audits.spec import Trained
from gradleak.errors import BadInput
from gradleak.training.checkpoints import Checkpoint, find_checkpoint

if TYPE_CHECKING:
    from gradleak.training.train import DeclaredTraining

SUFFIX = ".safetensors"
MODELS = "models"
"""The folder of trainings inside that of an audit."""


@dataclass(frozen=True)
class PendingTraining:
    """A training that comes before an audit.

    Attributes:
        declared: what is trained.
        folder: where to, inside the folder of the audit; None as long as that has none.
        done: whether all checkpoints that the audit needs are there.
    """

    declared: "DeclaredTraining"
    folder: Path | None
    done: bool


def fill_models(raw: dict[str, Any], out: Path | None) -> tuple[list[Fault], list[PendingTraining]]:
    """Put what checkpoints say in place of what the entries of `model` leave out.

    Entries with `trained` become one for each stage: with its weights if they are there, else with the untrained
    network in their place, by which everything but the weights can be checked and planned.

    Args:
        raw: a spec as plain data; its models are changed if nothing is wrong with them.
        out: the folder of the audit, where trainings are.

    Returns:
        What is wrong, and the trainings that the audit needs.
    """
    given = raw.get("model")
    entries: list[Any] = cast("list[Any]", given) if isinstance(given, list) else [given]
    faults: list[Fault] = []
    trainings: dict[str, PendingTraining] = {}
    filled: list[Any] = []
    for position, entry in enumerate(entries):
        if isinstance(entry, str) and entry.endswith(SUFFIX):
            entry = {"weights": entry}
        if not isinstance(entry, dict):
            filled.append(entry)
            continue
        place: Place = ("model", position)
        plain = cast("dict[str, Any]", entry)
        if plain.get("trained") is not None:
            stages, found, training = _trained(plain, out)
            filled += stages
            if training is not None:
                trainings.setdefault(json.dumps(training.declared.spec.to_plain()), training)
        else:
            filled_entry, found = _filled(plain)
            filled.append(filled_entry)
        faults += [fault.under(*place) for fault in found]
    if "model" in raw and not faults:  # otherwise faults must still find their places
        raw["model"] = filled if isinstance(given, list) or len(filled) != 1 else filled[0]
    return faults, list(trainings.values())


def _filled(entry: dict[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """An entry with what its checkpoint says, if its weights are a checkpoint."""
    weights = entry.get("weights")
    if not isinstance(weights, str):
        return entry, []
    named = "name" in entry or "factory" in entry
    try:
        found = find_checkpoint(weights)
    except BadInput as error:
        # With a name the entry is checked as a whole, where this is told with the rest.
        return entry, [] if named else [Fault(("weights",), problem) for problem in error.problems]
    if found is None:
        text = f"expected a checkpoint of gradleak train, got the tensors of {weights} alone; add name and settings"
        return entry, [] if named else [Fault(("weights",), text)]
    return {**entry, **facts_of(found)}, _contradictions(entry, facts_of(found))


def facts_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint says in the words of a model's entry."""
    return {
        "name": checkpoint.model.name,
        "settings": checkpoint.model.settings,
        "mean": list(checkpoint.space.mean),
        "std": list(checkpoint.space.std),
        "stage": checkpoint.stage,
    }


def _contradictions(entry: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Fault]:
    found: list[Fault] = []
    for key, fact in facts.items():
        own = entry.get("name", entry.get("factory")) if key == "name" else entry.get(key)
        same = [own] == fact if isinstance(fact, list) and not isinstance(own, list | tuple) else own == fact
        if isinstance(own, tuple):
            same = list(cast("tuple[Any, ...]", own)) == fact
        if own is not None and not same:
            text = f"expected {shown(fact)} (from the checkpoint), got {shown(own)}; leave it out, or use other weights"
            found.append(Fault((key,), text))
    return found


# ---- models that are trained first -------------------------------------------------------------------------------


def _trained(
    entry: dict[str, Any], out: Path | None
) -> tuple[list[dict[str, Any]], list[Fault], PendingTraining | None]:
    """The stages of a training as entries."""
    from gradleak.training.preparing import prepare
    from gradleak.training.train import declare_training

    rest = {key: value for key, value in entry.items() if key != "trained"}
    if rest:
        text = f"expected trained alone, got {', '.join(rest)} too, which the training says; remove it"
        return [], [Fault((next(iter(rest)),), text)], None
    try:
        trained = Trained.model_validate(entry["trained"])
    except ValidationError as error:
        return [], [fault.under("trained") for fault in structural_faults(error, Trained)], None
    try:
        declared = declare_training(trained.spec, trained.overrides)
        stages = prepare(declared.spec).stages
    except BadInput as error:
        return [], [fault.under("trained", "spec") for fault in faults_of(error)], None
    known = {stage.fraction: stage for stage in stages}
    faults = [
        Fault(
            ("trained", "at"),
            f"expected one of the checkpoints {', '.join(f'{one:g}' for one in known)}, got {at:g}; declare it in the "
            "training, for instance --set checkpoints=[0,0.5,1]",
        )
        for at in trained.at
        if at not in known
    ]
    if faults:
        return [], faults, None
    folder = None if out is None else out / MODELS / _folder_name(declared)
    model = declared.spec.model
    entries: list[dict[str, Any]] = []
    done = True
    for at in trained.at:
        path = None if folder is None else folder / known[at].file
        if path is not None and path.exists():
            filled, found = _filled({"weights": str(path)})
            entries.append(filled)
            faults += [fault.under("trained") for fault in found]
        else:
            done = False
            own = {"settings": model.settings, "mean": list(model.mean), "std": list(model.std)}
            entries.append({"name": model.name, **own, "stage": known[at].words, "redraw": False})
    return entries, faults, PendingTraining(declared, folder, done)


def _folder_name(declared: "DeclaredTraining") -> str:
    """A name that says what was trained, and differs for every training."""
    plain = {key: value for key, value in declared.spec.to_plain().items() if key != "save_every"}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', declared.spec.name)}-{digest}"
