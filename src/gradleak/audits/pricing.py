"""Which trainings tell what the settings of an audit cost: the plan of the prices.

A setting is what the owner of the data chooses: model, data, client, batch size and defenses. Settings that are trained
alike share a training, as all stages of training of one network do.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import gradleak
from gradleak.audits.building import dataset_of
from gradleak.audits.plan import PlannedTrial
from gradleak.audits.pricing_keys import setting_key
from gradleak.audits.records import mapping, record_id
from gradleak.audits.spec import PriceSpec
from gradleak.audits.summarizing import spec_settings
from gradleak.errors import BadInput
from gradleak.training.checking import semantic_faults
from gradleak.training.spec import DEFAULT_HELD_OUT, TrainSpec

_NO_TRAINING = "training knows no client of this kind"


@dataclass(frozen=True)
class PlannedPrice:
    """One training of one or more settings.

    Attributes:
        id: content hash of what changes the accuracy, 16 hexadecimal digits.
        training: what is trained; None where it cannot be.
        seed: number of the training, from 0.
        settings: keys of the settings whose price it is; see `setting_key`.
        reason: why it cannot be trained, in words; empty if it can.
    """

    id: str
    training: TrainSpec | None
    seed: int
    settings: tuple[str, ...]
    reason: str = ""


def plan_prices(price: PriceSpec | None, seed: int, planned: Sequence[PlannedTrial]) -> tuple[PlannedPrice, ...]:
    """Every training of an audit, seed by seed, so that a run that is cut short has looked at every setting.

    Args:
        price: of the spec; None for no trainings.
        seed: of the audit.
        planned: its trials.

    Returns:
        The trainings.
    """
    if price is None:
        return ()
    settings: dict[str, Mapping[str, Any]] = {}
    for trial in planned:
        if trial.spec["batch"] == 0:
            settings.setdefault(setting_key(spec_settings(trial.spec)), trial.spec)
    found: list[PlannedPrice] = []
    reasons: dict[str, str] = {}
    for number in range(price.seeds):
        alike: dict[str, tuple[TrainSpec | None, str, list[str]]] = {}
        for key, spec in settings.items():
            training, reason = _training(price, spec, seed + number)
            if training is not None:
                plain = json.dumps(_outcome_facts(training, spec), sort_keys=True)
                if plain not in reasons:
                    reasons[plain] = "" if number else _why_not(training)
                reason = reasons[plain]
            else:
                plain = key
            alike.setdefault(plain, (None if reason else training, reason, []))[2].append(key)
        for plain, (training, reason, keys) in alike.items():
            if not reason or number == 0:
                found.append(PlannedPrice(record_id({"price": plain}), training, number, tuple(keys), reason))
    refused = {key for one in found if one.reason for key in one.settings}
    return tuple(one for one in found if one.reason or not refused & set(one.settings))


def _training(price: PriceSpec, spec: Mapping[str, Any], seed: int) -> tuple[TrainSpec | None, str]:
    """The training of a setting, or why there is none."""
    data = mapping(spec["data"])
    asked = {key: data[key] for key in ("settings", "size", "only", "objective") if key in data}
    source = str(data.get("source", data["name"]))
    dataset = dataset_of({**asked, "name": source})
    if len(dataset.targets.unique()) < 2:
        return None, "the data have no labels to be right about"
    count = len(dataset) if price.test is not None else round((1 - (price.held_out or DEFAULT_HELD_OUT)) * len(dataset))
    count = min(count, price.examples or count)
    own = price.batch_size or len(spec["examples"])
    course, reason = _course(price, mapping(spec["client"]), own, count, len(spec["examples"]))
    if reason:
        return None, reason
    classes = data.get("classes")
    raw: dict[str, Any] = {
        "name": "price",
        "model": {"name": spec["model"]["name"], "settings": spec["model"].get("settings", {}), **_scaling(spec)},
        "data": {**asked, "name": source, **({} if classes is None else {"classes": classes})},
        "test": None if price.test is None else price.test.model_dump(mode="json"),
        "held_out": price.held_out,
        "examples": price.examples,
        "defense": _composition(spec["defenses"]),
        "seed": seed,
        "checkpoints": [1.0],
        **course,
    }
    return TrainSpec.model_validate(raw), ""


def _course(
    price: PriceSpec, client: Mapping[str, Any], own: int, examples: int, batch: int
) -> tuple[dict[str, Any], str]:
    """How the client of a setting trains."""
    optimizer = price.optimizer.model_dump(mode="json")
    workers = price.workers
    if client["name"] == "Aggregate":
        members = cast("Sequence[Mapping[str, Any]]", client.get("clients", ()))
        if len({json.dumps(dict(member), sort_keys=True, default=str) for member in members}) != 1:
            return {}, "training knows no clients of different kinds"
        workers = len(members) * int(client.get("count", 1))
        own = price.batch_size or max(1, batch // workers)
        client = members[0]
    if client["name"] == "Gradient":
        size = min(own * workers, examples)
        return {"epochs": price.epochs, "batch_size": size, "workers": workers, "optimizer": optimizer}, ""
    if client["name"] != "LocalSGD":
        return {}, _NO_TRAINING
    if any(client.get(name) for name in ("dampening", "nesterov", "proximal")):
        return {}, "training knows no such local steps"
    clients = max(1, examples // own)
    taking = min(workers, clients)
    local = int(client.get("epochs", 1))
    optimizer |= {name: client.get(name, 0.0) for name in ("lr", "momentum", "weight_decay")}
    return {
        "rounds": max(1, math.ceil(price.epochs * clients / (taking * local))),
        "batch_size": int(client.get("batch_size") or -(-examples // clients)),
        "federated": {"clients": clients, "participation": taking / clients, "local_epochs": local},
        "optimizer": optimizer,
    }, ""


def _scaling(spec: Mapping[str, Any]) -> dict[str, Any]:
    space = mapping(spec["space"])
    return {name: space[name] for name in ("mean", "std") if name in space}


def _composition(defenses: Sequence[Mapping[str, Any]]) -> Any:
    return [dict(defense) for defense in defenses] or "none"


def _outcome_facts(training: TrainSpec, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What changes the accuracy: the training, the data as they were found, and the source of foreign parts."""
    data, code = mapping(spec["data"]), mapping(spec["code"])
    free = {"name", "save_every", "threads"}
    return {
        "training": {name: value for name, value in training.to_plain().items() if name not in free},
        "data": {name: data.get(name) for name in ("count", "reference")},
        "code": {name: value for name, value in code.items() if not name.startswith("attack")},
        "gradleak": gradleak.__version__,
    }


def _why_not(training: TrainSpec) -> str:
    """Why a training cannot be run, in words; empty if it can."""
    try:
        faults = semantic_faults(training.to_plain())
    except BadInput as error:
        return "; ".join(error.problems)
    return "; ".join(f"{'.'.join(map(str, fault.path))}: {fault.text}" for fault in faults)
