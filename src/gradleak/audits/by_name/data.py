"""Data sets by name: bundled, a path, a factory of the user's own, or a plugin's."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from gradleak.audits.by_name.plugins import plugins
from gradleak.audits.by_name.references import is_reference
from gradleak.audits.by_name.resolving import guarded, resolve
from gradleak.audits.by_name.settings import called
from gradleak.audits.by_name.texts import is_of_texts, texts_named
from gradleak.audits.faults import BadSettings, Fault, nearest, shown
from gradleak.seeds import stage_generator
from gradleak.tokens import Objective
from gradleak.zoo.data import BUNDLED, Dataset, load, with_objective

IMAGE_RANK = 4


def data_factory(name: str) -> Any:
    """The function that makes a data set, or None for a bundled name or a path."""
    if is_reference(name):
        return resolve("data", name, {})
    bundled = {card.name for card in BUNDLED}
    announced = {plugin.name for plugin in plugins("data")} - bundled
    return resolve("data", name, {}) if name in announced else None


def dataset_named(
    name: str,
    settings: Mapping[str, object],
    *,
    size: int | None = None,
    only: tuple[str, ...] | None = None,
    classes: int | None = None,
    objective: Objective = "classification",
    seed: int = 0,
) -> Dataset:
    """A data set, ready for an audit.

    Args:
        name: bundled, a path, `package.module:factory`, or a plugin's.
        settings: keyword arguments of a factory; of texts, those of `texts_named`.
        size: pixels per side; None keeps the images as they are.
        only: names of the classes whose examples stay, under their own indices; None for all.
        classes: number of classes; None for those of the data. Data that show one class only get random labels.
        objective: what a model of texts is to predict.
        seed: of the random labels, or of which words are hidden.

    Returns:
        The data set.

    Raises:
        BadSettings: when there is none of this name, or it cannot be read; every fault with its key.
    """
    dataset = _read(name, settings, size)
    if only is not None:
        dataset = _only(dataset, only)
    if objective != "classification":
        return _with_objective(dataset, objective, classes, seed)
    if classes is None or classes == dataset.num_classes:
        return dataset
    shown_classes = dataset.targets.unique()
    if len(shown_classes) == 1:
        # Labels that are all the same would say nothing, and would make a batch easier to attack than real ones.
        generator = stage_generator(seed, f"labels/{dataset.name}")
        targets = torch.randint(classes, (len(dataset),), generator=generator)
    elif classes < dataset.num_classes:
        least = f"{dataset.num_classes} (classes of {dataset.name!r})"
        text = f"expected at least {least}, got {classes}; use `only` to drop some"
        raise BadSettings("data", [Fault(("classes",), text)])
    else:
        targets = dataset.targets
    names = dataset.class_names if len(shown_classes) > 1 else ()
    more = tuple(f"class {number}" for number in range(len(names), classes))
    return replace(dataset, targets=targets, class_names=(*names, *more))


def _with_objective(dataset: Dataset, objective: Objective, classes: int | None, seed: int) -> Dataset:
    if classes is not None:
        text = f"expected none where tokens are predicted (objective {objective}), got {classes}; leave it out"
        raise BadSettings("data", [Fault(("classes",), text)])
    try:
        return guarded("data", lambda: with_objective(dataset, objective, seed=seed))
    except BadSettings as error:
        faults = [Fault(("objective",), fault.text.removeprefix("objective: ")) for fault in error.faults]
        raise BadSettings("data", faults) from error


def _read(name: str, settings: Mapping[str, object], size: int | None) -> Dataset:
    factory = data_factory(name)
    if factory is None:
        if is_of_texts(name):
            if size is not None:
                raise BadSettings("data", [Fault(("size",), f"expected none for texts, got {size}; leave it out")])
            return texts_named(name, settings)
        if settings:
            text = f"expected no settings for {name!r}, got {', '.join(settings)}; only texts and factories have them"
            raise BadSettings("data", [Fault(("settings",), text)])
        try:
            return guarded("data", lambda: load(name, size=size))
        except BadSettings as error:
            raise BadSettings("data", [Fault(("name",), fault.text) for fault in error.faults]) from error
    dataset = guarded("data", lambda: called(factory, settings))
    if not isinstance(dataset, Dataset):
        got = type(dataset).__name__
        text = f"expected a factory that returns a gradleak.zoo.data.Dataset, got {got}; build one from your tensors"
        raise BadSettings("data", [Fault(("name",), text)])
    return dataset if size is None else guarded("data", lambda: dataset.resized(size))


def _only(dataset: Dataset, only: tuple[str, ...]) -> Dataset:
    faults = [
        Fault(
            ("only", position),
            f"expected a class of {dataset.name!r}, got {shown(name)}; "
            f"{nearest(name, dataset.class_names, f'it has {shown(list(dataset.class_names))}')}",
        )
        for position, name in enumerate(only)
        if name not in dataset.class_names
    ]
    wanted = torch.tensor([dataset.class_names.index(name) for name in only if name in dataset.class_names])
    chosen = torch.isin(dataset.targets, wanted).nonzero().flatten()
    if not faults and len(chosen) == 0:
        faults.append(Fault(("only",), f"expected classes with examples, got none of {shown(only)}; choose others"))
    if faults:
        raise BadSettings("data", faults)
    return dataset.subset(chosen)
