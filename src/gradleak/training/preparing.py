"""The data and the model of a training."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache

from gradleak.audits.by_name.data import dataset_named
from gradleak.audits.by_name.models import model_named
from gradleak.audits.by_name.spaces import space_for
from gradleak.defenses.applying import changed_task
from gradleak.errors import BadInput
from gradleak.tasks import InputSpace, Task
from gradleak.training.defending import Defending, defenses_named
from gradleak.training.private import PrivateSettings, private_settings
from gradleak.training.spec import DEFAULT_HELD_OUT, TrainingData, TrainSpec
from gradleak.training.stages import Stage, stages_of
from gradleak.training.steps import batches_of
from gradleak.zoo.data import Dataset


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a training starts from.

    Attributes:
        train: training data.
        test: test data.
        space: the input space.
        stages: moments at which the model is kept, ascending.
        total: steps or rounds of the whole training.
    """

    train: Dataset
    test: Dataset
    space: InputSpace
    stages: tuple[Stage, ...]
    total: int


def prepare(spec: TrainSpec) -> Prepared:
    """Load the data and count the steps.

    Args:
        spec: checked.

    Returns:
        What the training starts from.

    Raises:
        BadInput: when the data cannot be read or do not suffice.
    """
    train, test = train_and_test(spec)
    total = units_of(spec, len(train))
    space = space_for(train.input_shape, spec.model.mean, spec.model.std, train.tokens)
    stages, problems = stages_of(spec.checkpoints, total)
    if problems:
        raise BadInput(f"checkpoints: {problem}" for problem in problems)
    return Prepared(train, test, space, stages, total)


def new_defending(spec: TrainSpec, prepared: Prepared) -> Defending:
    """The untrained model in its task, with the defenses of the training.

    Returns:
        New objects; defenses that are a part of the model are built in.

    Raises:
        BadInput: when the model cannot be built or does not fit the data.
    """
    train, classes = prepared.train, prepared.train.num_classes
    model = model_named(
        spec.model.name,
        spec.model.settings,
        shape=train.input_shape,
        num_classes=classes,
        seed=spec.seed,
        tokens=train.tokens,
        objective=train.objective,
    )
    task = Task(model, prepared.space, classes, classified=train.classified)
    defenses = defenses_named(spec.defense)
    return Defending(defenses, changed_task(defenses, task))


def private_of(spec: TrainSpec, prepared: Prepared) -> PrivateSettings | None:
    """Clipping and noise of a differentially private training; None for any other.

    Returns:
        Them, with the noise found that the wanted epsilon asks for.

    Raises:
        BadInput: when opacus is needed and not installed.
    """
    if spec.dp is None:
        return None
    return private_settings(spec.dp, spec.batch_size, len(prepared.train), prepared.total)


def train_and_test(spec: TrainSpec) -> tuple[Dataset, Dataset]:
    """Training data and test data, which are held out at random if there are none of their own."""
    train = data_of(spec.data, spec.seed)
    if spec.test is not None:
        test = data_of(spec.test, spec.seed)
    else:
        count = round((spec.held_out or DEFAULT_HELD_OUT) * len(train))
        test, train = train.split(min(max(count, 1), len(train) - 1), spec.seed)
    if spec.examples is not None and spec.examples < len(train):
        train = train.subset(train.indices(spec.examples, spec.seed))
    return train, test


def data_of(entry: TrainingData, seed: int) -> Dataset:
    """A data set, kept for the next call."""
    # Labels may be drawn with the seed, and which words are hidden; nothing else depends on it.
    drawn = seed if entry.classes is not None or entry.objective == "masked" else 0
    return _data(json.dumps(entry.model_dump(mode="json"), sort_keys=True), drawn)


@lru_cache(maxsize=2)
def _data(key: str, seed: int) -> Dataset:
    entry = TrainingData.model_validate_json(key)
    return dataset_named(
        entry.name,
        entry.settings,
        size=entry.size,
        only=entry.only,
        classes=entry.classes,
        objective=entry.objective,
        seed=seed,
    )


def forget() -> None:
    """Drop the data that are kept, for a process in which files may have changed since."""
    _data.cache_clear()


def data_digest(data: Dataset) -> str:
    """16 hexadecimal digits of SHA-256 of all inputs and targets."""
    digest = hashlib.sha256(data.inputs.contiguous().numpy().tobytes())
    digest.update(data.targets.numpy().tobytes())
    return digest.hexdigest()[:16]


def units_of(spec: TrainSpec, examples: int) -> int:
    """Steps or rounds of the whole training."""
    if spec.federated is not None:
        return spec.rounds or 1
    return (spec.epochs or 1) * batches_of(examples, spec.batch_size)
