"""From a planned trial's plain data to the trial's objects, in any process.

Data sets, models and tasks are kept for the next trials of the same process; everything in them is only read.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gradleak.attacks import Attack
from gradleak.audits.by_name import attack_named, client_named, dataset_named, defense_named, threat_named
from gradleak.audits.by_name.defenses import with_built_in
from gradleak.audits.by_name.models import model_digest, model_named
from gradleak.audits.drawing import reference_positions
from gradleak.audits.trial import Trial
from gradleak.clients import Client
from gradleak.components import from_plain
from gradleak.defenses import Defense
from gradleak.errors import BadInput
from gradleak.tasks import ImageSpace, InputSpace, TabularSpace, Task
from gradleak.threat import ThreatModel
from gradleak.tokens import Objective, TokenSpace
from gradleak.zoo.data import Dataset
from gradleak.zoo.models import load_weights

Plain = Mapping[str, Any]
"""A part of a planned trial's spec."""

KEPT_TASKS = 8
KEPT_DATA = 8


def build(spec: Plain) -> Trial:
    """The trial that a planned spec describes.

    Args:
        spec: of a `PlannedTrial`, or read back from a record.

    Returns:
        The trial; its id is that of the plan.

    Raises:
        BadInput: when something that the spec names is gone, cannot be loaded, or is not what was planned with.
    """
    dataset = dataset_of(spec["data"])
    examples = list(spec["examples"])
    _refuse_other_data(spec, dataset, examples)
    return Trial(
        task=task_of(spec["model"], spec["space"], spec["num_classes"], spec["data"]),
        model=spec["model"],
        data=spec["data"],
        examples=examples,
        inputs=dataset.inputs[examples],
        targets=torch.tensor(spec["targets"]),
        reference=_reference(dataset, examples),
        attack=attack_of(spec["attack"]),
        attack_settings=spec["attack"],
        client=_client(_key(spec["client"])),
        defenses=[_defense(_key(defense)) for defense in spec["defenses"]],
        threat=_threat(_key(spec["threat"])),
        seed=spec["seed"],
        planned=spec,
    )


def dataset_of(data: Plain) -> Dataset:
    """The data set of a planned spec, kept for the next call.

    Args:
        data: its description.

    Returns:
        The data set.

    Raises:
        BadInput: when it cannot be read.
    """
    return _dataset(_data_key(data))


def task_of(model: Plain, space: Plain, num_classes: int, data: Plain | None = None) -> Task:
    """The task of a planned spec, kept for the next call.

    Args:
        model: its description; a `digest` must fit unless each batch has its own network.
        space: the input space.
        num_classes: number of classes.
        data: description of the data, which for texts say what is predicted and how ids are read.

    Returns:
        The task.

    Raises:
        BadInput: when the model cannot be built, does not fit, or is not the one that was planned with.
    """
    digest = None if model.get("redraw") else model.get("digest")
    rest = {key: value for key, value in model.items() if key not in {"digest", "redraw"}}
    texts = _data_key(data) if data is not None and space.get("name") == TokenSpace.__name__ else None
    return _task(_key({"model": rest, "space": space, "num_classes": num_classes}), digest, texts)


def attack_of(plain: Plain) -> Attack:
    """The attack of a planned spec."""
    return attack_named(plain["name"], {key: value for key, value in plain.items() if key != "name"})


def network(model: Plain, space: InputSpace, num_classes: int, objective: Objective = "classification") -> nn.Module:
    """A model from its description, never one that was kept.

    Args:
        model: the description.
        space: of its inputs.
        num_classes: number of classes.
        objective: what a model of texts predicts.

    Returns:
        A new object.

    Raises:
        BadInput: when it cannot be built, or its weights do not fit.
    """
    built = model_named(
        model["name"],
        model.get("settings", {}),
        shape=space.shape,
        num_classes=num_classes,
        seed=model.get("seed", 0),
        tokens=space if isinstance(space, TokenSpace) else None,
        objective=objective,
    )
    built = with_built_in(built, model.get("defenses", ()), space, num_classes)
    weights = model.get("weights")
    return built if weights is None else load_weights(built, Path(weights))


def space_of(plain: Plain) -> InputSpace:
    """The input space of a planned spec."""
    choices: Sequence[type[Any]] = (ImageSpace, TabularSpace, TokenSpace)
    return cast(InputSpace, from_plain("space", plain, choices))


def examples_digest(inputs: Tensor, targets: Tensor) -> str:
    """16 hexadecimal digits of SHA-256 of chosen inputs `[N, ...]` and their targets `[N]`."""
    digest = hashlib.sha256(inputs.contiguous().numpy().tobytes())
    digest.update(json.dumps(targets.tolist()).encode())
    return digest.hexdigest()[:16]


def reference_digest(dataset: Dataset) -> str:
    """The same of the public examples."""
    chosen = reference_positions(dataset.name, len(dataset))
    return examples_digest(dataset.inputs[chosen], dataset.targets[chosen])


def forget() -> None:
    """Drop everything that is kept for the next trials, for a process in which files may have changed since."""
    for kept in (_dataset, _task):
        kept.cache_clear()


def _refuse_other_data(spec: Plain, dataset: Dataset, examples: Sequence[int]) -> None:
    data = spec["data"]
    inside = max(examples, default=0) < len(dataset)
    if inside and examples_digest(dataset.inputs[list(examples)], torch.tensor(spec["targets"])) == data["digest"]:
        return
    raise BadInput(
        [
            f"data {data['name']!r}: expected the examples that the audit was planned with, got others under the same "
            "name; run the command again to plan anew"
        ]
    )


def _reference(dataset: Dataset, examples: Sequence[int]) -> Tensor:
    chosen = _reference_positions(dataset.name, len(dataset))
    private = torch.isin(chosen, torch.tensor(examples))
    return dataset.inputs[chosen[~private]]


_reference_positions = lru_cache(maxsize=KEPT_DATA)(reference_positions)


def _data_key(data: Plain) -> str:
    """What the data are loaded by."""
    keys = ("settings", "size", "only", "classes", "objective", "label_seed")
    return _key({**{key: data[key] for key in keys if key in data}, "name": data.get("source", data["name"])})


def _key(plain: Plain) -> str:
    """What a cache remembers a description by."""
    return json.dumps(plain, sort_keys=True)


@lru_cache(maxsize=KEPT_DATA)
def _dataset(key: str) -> Dataset:
    data = json.loads(key)
    only = data.get("only")
    return dataset_named(
        data["name"],
        data.get("settings", {}),
        size=data.get("size"),
        only=None if only is None else tuple(only),
        classes=data.get("classes"),
        objective=data.get("objective", "classification"),
        seed=data.get("label_seed", 0),
    )


@lru_cache(maxsize=KEPT_TASKS)
def _task(key: str, digest: str | None, texts: str | None) -> Task:
    plain = json.loads(key)
    space = space_of(plain["space"])
    dataset = None if texts is None else _dataset(texts)
    if dataset is not None and dataset.tokens is not None and isinstance(space, TokenSpace):
        space = replace(space, to_text=dataset.tokens.to_text)
    objective = "classification" if dataset is None else dataset.objective
    model = network(plain["model"], space, plain["num_classes"], objective)
    if digest is not None and model_digest(model) != digest:
        raise BadInput(
            [
                f"model {plain['model']['name']!r}: expected the weights that the audit was planned with, got others; "
                "run the command again to plan anew, and see that the factory returns the same model in every process"
            ]
        )
    return Task(model, space, plain["num_classes"], classified="example" if dataset is None else dataset.classified)


@lru_cache(maxsize=64)
def _client(key: str) -> Client:
    return client_named(*_named(key))


@lru_cache(maxsize=64)
def _defense(key: str) -> Defense:
    return defense_named(*_named(key))


@lru_cache(maxsize=64)
def _threat(key: str) -> ThreatModel:
    return threat_named(_named(key)[1])


def _named(key: str) -> tuple[str, dict[str, Any]]:
    settings: dict[str, Any] = json.loads(key)
    return str(settings.pop("name")), settings
