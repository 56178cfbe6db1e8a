"""What a training of an inverter begins with: what is wrong with its data, and what the inverter will be for."""

import hashlib
import json
from pathlib import Path
from typing import Any

from gradleak.errors import refuse
from gradleak.inverters import InverterFacts, plain_components, state_digest
from gradleak.learning.settings import LearnSettings
from gradleak.learning.simulating import Simulator
from gradleak.tasks import Task
from gradleak.zoo.data import Dataset

_IMAGE_RANK = 4


def data_problems(task: Task, data: Dataset, test: Dataset | None, settings: LearnSettings) -> list[str]:
    """Everything that keeps data from training an inverter for a task, one line each."""
    problems: list[str] = []
    for name, dataset in (("data", data), ("test", test)):
        if dataset is None:
            continue
        if dataset.input_shape != task.space.shape or task.space.variable_shape != task.space.shape:
            problems.append(
                f"{name}: expected inputs of shape {list(task.space.shape)}, got {list(dataset.input_shape)} in "
                f"{dataset.name!r}; resize them, or use the data that the model is for"
            )
        elif int(dataset.targets.max()) >= task.num_classes:
            problems.append(
                f"{name}: expected classes below {task.num_classes}, got {int(dataset.targets.max())} in "
                f"{dataset.name!r}; use data with the model's classes"
            )
    if test is None and len(data) < 2:
        problems.append(f"data: expected at least 2 examples, got {len(data)}; one of them is held out")
    if settings.flip and data.inputs.dim() != _IMAGE_RANK:
        problems.append("flip: expected images to mirror, got rows; leave it out")
    return problems


def facts_of(made: Simulator, data: Dataset, test: Dataset, settings: LearnSettings, model: str) -> InverterFacts:
    """What an inverter is trained for, before it is."""
    digest = hashlib.sha256(data.inputs.contiguous().numpy().tobytes())
    digest.update(data.targets.numpy().tobytes())
    return InverterFacts(
        model=model,
        state=state_digest(made.state),
        client=plain_components([made.client])[0],
        defenses=plain_components(made.defenses),
        shape=made.task.space.shape,
        bounds=made.task.space.bounds,
        num_classes=made.task.num_classes,
        data=data.name,
        examples=len(data),
        data_digest=digest.hexdigest()[:16],
        held_out=test.name,
        held_out_examples=len(test),
        settings=settings.plain(),
    )


def refuse_others(folder: Path, found: InverterFacts, facts: InverterFacts) -> None:
    """Refuse to go on for another model, defense, data set or with other settings; each difference is named.

    Args:
        folder: of the training.
        found: what was trained there.
        facts: what is to be trained.

    Raises:
        BadInput: with every difference.
    """
    before, now = _told(found), _told(facts)
    refuse(
        f"{folder}: expected the training that this folder was begun with, got {key} = {now.get(key)!r} in place of "
        f"{before.get(key)!r}; change it back, or choose another folder"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    )


def _told(facts: InverterFacts) -> dict[str, Any]:
    plain = json.loads(facts.model_dump_json(exclude={"steps", "quality", "settings"}))
    return {**plain, **facts.settings}
