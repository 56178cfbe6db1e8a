"""From the words on the command line to data, and to a task whose input space is that of the data."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradleak.cli import loading
from gradleak.errors import BadInput, refuse
from gradleak.tasks import ImageSpace, InputSpace, TabularSpace, Task

if TYPE_CHECKING:
    from gradleak.zoo.data import Dataset

_IMAGE_RANK = 3


def dataset_of(option: str, name: str, size: int | None) -> "Dataset":
    """Data by name or path.

    Args:
        option: which word this is, for messages.
        name: of list data, or a path.
        size: pixels per side; None leaves images as they are.

    Returns:
        The examples.

    Raises:
        BadInput: when there are none.
    """
    from gradleak.audits.by_name.data import dataset_named
    from gradleak.audits.faults import BadSettings

    try:
        found = dataset_named(name, {}, size=size)
    except BadSettings as error:
        raise BadInput(f"{option}: {fault.text}" for fault in error.faults) from None
    refuse([] if found.tokens is None else [f"{option}: expected images or rows of numbers, got texts; use other data"])
    return found


def task_of(
    examples: "Dataset",
    model: str | None,
    weights: Path | None,
    seed: int,
    mean: str | None,
    std: str | None,
    num_classes: int | None,
) -> Task:
    """The model with the input space that the data have.

    Args:
        examples: the data.
        model: as `--model` says.
        weights: as `--weights` says.
        seed: of a zoo model's weights.
        mean: as `--mean` says.
        std: as `--std` says.
        num_classes: in place of the checkpoint's, or the data's.

    Returns:
        The task.

    Raises:
        BadInput: when words cannot be read, or model and data do not fit.
    """
    problems: list[str] = []
    means, stds = loading.numbers("--mean", mean, float, problems), loading.numbers("--std", std, float, problems)
    refuse(problems)
    shape = examples.input_shape
    space: InputSpace
    if len(shape) == _IMAGE_RANK:
        space = ImageSpace((shape[0], shape[1], shape[2]))
    elif len(shape) == 1:
        space = TabularSpace(shape[0])
    else:
        raise BadInput(
            [f"--data: expected images or rows of numbers, got inputs of shape {list(shape)}; use other data"]
        )
    checkpoint = loading.checkpoint_of(model, weights)
    if checkpoint is not None and isinstance(space, ImageSpace):
        stored = checkpoint.input_space()
        if isinstance(stored, ImageSpace):
            space = replace(stored, shape=space.shape)
    found = loading.input_space(space, None, means, stds)
    assert found is not None  # the data have a shape
    classes = num_classes or (checkpoint.num_classes if checkpoint is not None else examples.num_classes)
    return Task(loading.model_of(model, weights, seed, checkpoint, found, classes), found, classes)
