"""What is wrong with a training spec beyond its shape, all of it at once."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch.nn import functional

from gradleak.audits.by_name.models import model_setting_faults
from gradleak.audits.by_name.spaces import space_for
from gradleak.audits.faults import Fault, about_setting, faults_of
from gradleak.defenses import ChangesBatch
from gradleak.defenses.applying import defense_problems
from gradleak.errors import BadInput
from gradleak.tokens import TokenSpace
from gradleak.training.backward import backward_of
from gradleak.training.defending import Defending, composition_faults
from gradleak.training.losses import logits
from gradleak.training.memories import Memories
from gradleak.training.preparing import Prepared, data_of, new_defending, train_and_test, units_of
from gradleak.training.private import privacy_faults, trial_settings
from gradleak.training.spec import Privacy, TrainedModel, TrainingData, TrainSpec
from gradleak.training.splitting import split_among_clients
from gradleak.training.stages import stages_of
from gradleak.training.steps import examples_for, sgd, step
from gradleak.zoo.data import Dataset, vocabulary_digest

IMAGE_RANK = 3

T = TypeVar("T")
P = TypeVar("P", bound=BaseModel)


def semantic_faults(raw: Mapping[str, Any]) -> list[Fault]:
    """Everything that is wrong with a spec beyond its shape; parts of a wrong shape are passed over.

    Args:
        raw: the spec as plain data.

    Returns:
        Faults with their paths.
    """
    found = _length_faults(raw) + _defense_faults(raw)
    model = _parsed(TrainedModel, raw.get("model"))
    if model is not None:
        faults = _attempt(("model",), found, lambda: model_setting_faults(model.name, model.settings))
        found += [fault.under("model", "settings") for fault in faults or ()]
    loaded: dict[str, Dataset] = {}
    for key in ("data", "test"):
        entry = _parsed(TrainingData, raw.get(key))
        dataset = None if entry is None else _attempt((key,), found, lambda own=entry: data_of(own, 0))
        if dataset is not None:
            loaded[key] = dataset
            found += [fault.under(key) for fault in _example_faults(dataset)]
    if len(loaded) == 2:
        found += _test_faults(loaded["data"], loaded["test"])
    if not found:
        try:
            spec = TrainSpec.model_validate(raw)
        except ValidationError:
            return []  # told by the check of the shape
        return _whole_faults(spec)
    return found


def _length_faults(raw: Mapping[str, Any]) -> list[Fault]:
    federated = raw.get("federated") is not None
    wanted, other = ("rounds", "epochs") if federated else ("epochs", "rounds")
    kind = "a federated training" if federated else "a single worker"
    found: list[Fault] = []
    if raw.get(wanted) is None:
        found.append(Fault((wanted,), f"expected a number for {kind}, got none; add {wanted}: 10"))
    if raw.get(other) is not None:
        advice = "local_epochs is among the settings of federated" if federated else "add federated, or remove it"
        found.append(Fault((other,), f"expected none for {kind}, got {raw[other]!r}; {advice}"))
    if raw.get("test") is not None and raw.get("held_out") is not None:
        text = f"expected none where there are test data, got {raw['held_out']!r}; remove one of them"
        found.append(Fault(("held_out",), text))
    return found


def _defense_faults(raw: Mapping[str, Any]) -> list[Fault]:
    found = [fault.under("defense") for fault in composition_faults(raw.get("defense"))]
    workers, federated = raw.get("workers", 1), raw.get("federated") is not None
    if workers != 1 and (federated or raw.get("dp") is not None):
        other = "a federation, whose clients are the workers" if federated else "dp"
        found.append(Fault(("workers",), f"expected 1 with {other}, got {workers!r}; remove one of them"))
    privacy = _parsed(Privacy, raw.get("dp"))
    if privacy is None:
        return found
    if federated:
        found.append(Fault(("dp",), "expected none for a federated training, got dp; remove one of them"))
    if (privacy.noise_multiplier is None) == (privacy.epsilon is None):
        got = "neither" if privacy.epsilon is None else "both"
        found.append(Fault(("dp",), f"expected either noise_multiplier or epsilon, got {got}; give one of them"))
    return found


def _example_faults(dataset: Dataset) -> list[Fault]:
    found: list[Fault] = []
    if len(dataset) < 2:
        text = f"expected at least 2 examples, got {len(dataset)} in {dataset.name!r}; use more data"
        found.append(Fault(("name",), text))
    if dataset.num_classes < 2:
        text = f"expected at least 2 classes, got those of {dataset.name!r}: {dataset.class_names}; use labeled data"
        found.append(Fault(("name",), text))
    return found


def _test_faults(data: Dataset, test: Dataset) -> list[Fault]:
    found: list[Fault] = []
    if test.input_shape != data.input_shape:
        text = f"expected inputs of shape {list(data.input_shape)} (of data), got {list(test.input_shape)}; add size"
        found.append(Fault(("test", "name"), text))
    if test.objective != data.objective:
        text = f"expected the objective of data, {data.objective}, got {test.objective}; say it for both"
        found.append(Fault(("test", "objective"), text))
    words = [None if own.tokens is None else vocabulary_digest(own.tokens) for own in (data, test)]
    if words[0] != words[1]:
        text = "expected the tokenizer of data, got another one; name one with settings: {tokenizer: FILE} for both"
        found.append(Fault(("test", "settings"), text))
    if test.class_names != data.class_names and data.classified == "example":
        text = (
            f"expected the classes of data, {', '.join(data.class_names[:5])}, ... ({data.num_classes}), got "
            f"{', '.join(test.class_names[:5])}, ... ({test.num_classes}); a label must mean the same in both"
        )
        found.append(Fault(("test", "name"), text))
    return found


def _whole_faults(spec: TrainSpec) -> list[Fault]:
    """What can be told only with all parts at hand."""
    found: list[Fault] = []
    train, _ = train_and_test(spec)
    _, problems = stages_of(spec.checkpoints, units_of(spec, len(train)))
    found += [Fault(("checkpoints",), problem) for problem in problems]
    if spec.federated is not None and spec.federated.clients > len(train):
        text = f"expected at most {len(train)} (training examples), got {spec.federated.clients}; use fewer clients"
        found.append(Fault(("federated", "clients"), text))
    augmentation = spec.augmentation
    if (augmentation.flip or augmentation.crop) and len(train.input_shape) != IMAGE_RANK:
        text = f"expected images to augment, got inputs of shape {list(train.input_shape)}; remove it"
        found.append(Fault(("augmentation",), text))
    if spec.federated is not None and spec.federated.split == "dirichlet" and train.classified == "token":
        text = "expected iid where tokens are predicted, which have no classes to divide, got dirichlet; change it"
        found.append(Fault(("federated", "split"), text))
    scaling = spec.model.mean, spec.model.std
    space = _attempt(("model",), found, lambda: space_for(train.input_shape, *scaling, train.tokens))
    if space is not None:
        prepared = Prepared(train, train, space, (), 1)
        defending = _attempt(("model",), found, lambda: new_defending(spec, prepared))
        if defending is not None:
            found += [
                about_setting(("defense",), problem) for problem in defense_problems(defending.defenses, defending.task)
            ]
            found += [] if train.tokens is None else _text_faults(train, defending)
            found += [] if spec.dp is None else privacy_faults(defending.defenses, defending.task.model)
        found += [] if defending is None or found else _step_faults(spec, prepared, defending)
    return found


def _text_faults(data: Dataset, defending: Defending) -> list[Fault]:
    """What only texts cannot be trained with."""
    found: list[Fault] = []
    for defense in defending.defenses:
        if isinstance(defense, ChangesBatch):
            text = f"expected defenses of the update for texts, got {type(defense).__name__}, which changes inputs"
            found.append(Fault(("defense",), f"{text}; remove it"))
    space, model = defending.task.space, defending.task.model
    ids = data.inputs[:8]
    if not isinstance(space, TokenSpace) or space.padding is None or not bool((ids == space.padding).any()):
        return found
    kept = (ids != space.padding) if data.classified == "token" else torch.ones(len(ids), dtype=torch.bool)
    # A training hands ids alone to the model, an audit the mask of the padding too.
    with torch.no_grad():
        alone = logits(model.eval(), ids)
        masked = space.outputs(model, {}, ids, lambda rows: functional.embedding(ids, rows))
    if not torch.allclose(alone[kept], masked[kept], rtol=1e-3, atol=1e-5):
        text = (
            "expected a model that gives the same with and without attention_mask, got one that sees the padding when "
            "it has none; find the padding by its id inside, as the models of the zoo do"
        )
        found.append(Fault(("model", "name"), text))
    return found


def _step_faults(spec: TrainSpec, prepared: Prepared, defending: Defending) -> list[Fault]:
    """Try one step on a model that is then dropped: what works in evaluation mode may not train."""
    data, model = prepared.train, defending.task.model
    size = min(spec.batch_size, len(data))
    if spec.federated is not None:  # whoever has least may have a single example
        size = min(size, *map(len, split_among_clients(data.targets, spec.federated, spec.seed)))
    batch = examples_for(model, data.inputs[:size], data.targets[:size], prepared.space)
    private = None if spec.dp is None else trial_settings(spec.dp, size)
    try:
        backward = backward_of(spec, defending, private, Memories())
        step(model.train(), sgd(model, spec.optimizer), 0.0, batch, spec.augmentation, spec.seed, "trial", backward)
    # The model may be foreign code, and any exception of it means the same to the user: it does not train.
    except Exception as error:  # noqa: BLE001
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        text = f"expected a model that trains on batches of {size}, got {reason}; change batch_size, "
        text += "the model, or the clients and their split" if spec.federated is not None else "or the model"
        return [Fault(("model",), text)]
    return []


def _parsed(part: type[P], entry: object) -> P | None:
    try:
        return None if entry is None else part.model_validate(entry)
    except ValidationError:  # told by the check of the shape
        return None


def _attempt(path: tuple[str, ...], found: list[Fault], make: Callable[[], T]) -> T | None:
    """What `make` returns; None if it fails, and then what is wrong is noted under the path."""
    try:
        return make()
    except BadInput as error:
        found += [fault.under(*path) for fault in faults_of(error)]
        return None
