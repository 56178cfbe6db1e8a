"""The models and data of a spec, loaded once: here it is found what is wrong with them, and here a plan starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradleak.audits.building import dataset_of, network, reference_digest, task_of
from gradleak.audits.by_name.components import described
from gradleak.audits.by_name.data import data_factory
from gradleak.audits.by_name.models import is_drawn, is_of_zoo, model_code, model_digest
from gradleak.audits.by_name.references import code_digest
from gradleak.audits.by_name.spaces import fitted_space, space_for
from gradleak.audits.drawing import drawn_seed
from gradleak.audits.faults import BadSettings, Fault
from gradleak.audits.records import plain
from gradleak.audits.spec import DataSpec, ModelSpec
from gradleak.errors import BadInput
from gradleak.tasks import InputSpace, Task
from gradleak.tokens import TokenSpace
from gradleak.training.checkpoints import Checkpoint, find_checkpoint
from gradleak.zoo.data import Dataset, vocabulary_digest


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A data set with its description.

    Attributes:
        dataset: the examples.
        description: plain data, without the digest of a batch.
        distinct: whether the labels of a batch differ.
        code: digest of the source of a user's factory.
    """

    dataset: Dataset
    description: dict[str, Any]
    distinct: bool
    code: str | None


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A model for one data set, with its description.

    Attributes:
        task: with the network of the first batch.
        description: plain data, without a seed if each batch has its own network.
        space: plain data of the input space.
        redraw: whether each batch has its own network.
        stage: label of the training stage.
        code: digest of the source of a user's model.
    """

    task: Task
    description: dict[str, Any]
    space: dict[str, Any]
    redraw: bool
    stage: str | None
    code: str | None


def prepare_data(entry: DataSpec, seed: int, outputs: Callable[[Dataset], int | None]) -> PreparedData:
    """Load a data set.

    Args:
        entry: of the spec.
        seed: of the audit.
        outputs: gives the number of outputs of a model of the user's own, for data without labels; None if there is
            none.

    Returns:
        The data set.

    Raises:
        BadSettings: when it cannot be read or does not suit an audit.
    """
    asked: dict[str, Any] = {"name": entry.name}
    if entry.settings:
        asked["settings"] = entry.settings
    if entry.size is not None:
        asked["size"] = entry.size
    if entry.only is not None:
        asked["only"] = list(entry.only)
    if entry.objective != "classification":
        asked["objective"] = entry.objective
    classes = entry.classes
    if classes is None and entry.objective == "classification":
        labeled = dataset_of(asked)
        classes = outputs(labeled) if labeled.num_classes == 1 else None
        if labeled.num_classes == 1 and classes is None:
            kind = "images" if labeled.tokens is None else "texts"
            text = f"expected a number, since {labeled.name!r} has {kind} of one class only, got none; add classes: 10"
            raise BadSettings("data", [Fault(("classes",), text)])
    if classes is not None:
        asked.update(classes=classes, label_seed=seed)
    elif entry.objective == "masked":  # which words are hidden
        asked["label_seed"] = seed
    dataset = dataset_of(asked)
    if entry.distinct_labels and dataset.classified == "token":
        text = f"expected false where tokens are predicted (objective {dataset.objective}), got true; leave it out"
        raise BadSettings("data", [Fault(("distinct_labels",), text)])
    description = {**asked, "name": dataset.name, "count": len(dataset), "reference": reference_digest(dataset)}
    if dataset.name != entry.name:
        description["source"] = entry.name
    factory = data_factory(entry.name)
    code = None if factory is None else code_digest([factory])
    return PreparedData(dataset, description, entry.distinct_labels, code)


def prepare_model(entry: ModelSpec, data: PreparedData, seed: int) -> PreparedModel:
    """Build a model for a data set.

    Args:
        entry: of the spec.
        data: whose inputs it takes.
        seed: of the audit.

    Returns:
        The model.

    Raises:
        BadInput: when it cannot be built or does not fit the data.
    """
    dataset = data.dataset
    space = space_for(dataset.input_shape, entry.mean, entry.std, dataset.tokens)
    redraw = redrawn(entry)
    description: dict[str, Any] = {"name": entry.name}
    if entry.settings:
        description["settings"] = entry.settings
    if entry.weights is not None:
        description["weights"] = entry.weights
        checkpoint = find_checkpoint(entry.weights)
        if checkpoint is not None:
            _refuse_other_shape(checkpoint, dataset)
            description["trained"] = checkpoint.facts()
            if checkpoint.model.defenses:
                description["defenses"] = list(checkpoint.model.defenses)
    stage = network_stage(0) if redraw else "network"
    built = description if entry.weights is not None else {**description, "seed": drawn_seed(seed, stage)}
    num_classes = dataset.num_classes
    if not is_drawn(entry.name):
        model = network(built, space, num_classes, dataset.objective)
        space = fitted_space(space, model)
        found = count_outputs(model, space)
        num_classes = num_classes if found is None else _enough(found, dataset)
    space_plain: dict[str, Any] = plain(space, "space")
    task = task_of(built, space_plain, num_classes, data.description)
    digest = model_digest(task.model)
    description = {**(description if redraw else built), "redraw": redraw, "digest": digest}
    return PreparedModel(task, description, space_plain, redraw, entry.stage, model_code(entry.name, task.model))


def outputs_of(models: Sequence[ModelSpec], seed: int) -> Callable[[Dataset], int | None]:
    """How many classes the user's own models tell apart, for data that have no labels.

    Args:
        models: of the spec; those of the zoo are built for the data and say nothing.
        seed: of the audit.

    Returns:
        A function from the data to the number of outputs of the first model that takes them, None if there is none.
    """

    def outputs(dataset: Dataset) -> int | None:
        for entry in models:
            if not is_of_zoo(entry.name):
                try:
                    space = space_for(dataset.input_shape, entry.mean, entry.std, dataset.tokens)
                    description = {"name": entry.name, "settings": entry.settings, "seed": drawn_seed(seed, "network")}
                    model = network(description, space, 0)
                    found = count_outputs(model, fitted_space(space, model))
                except BadInput:
                    continue  # told when that model is looked at
                if found is not None:
                    return found
        return None

    return outputs


def network_stage(batch: int) -> str:
    """The stream from which the seed of the network of a batch is drawn, if each batch has its own."""
    return f"network/{batch}"


def redrawn(entry: ModelSpec) -> bool:
    """Whether each captured batch gets a new network."""
    return entry.redraw if entry.redraw is not None else is_drawn(entry.name) and entry.weights is None


def count_outputs(model: nn.Module, space: InputSpace) -> int | None:
    """The number of outputs of a model for one input; None if it does not take it, about which `Task` says more."""
    flags = [(module, module.training) for module in model.modules()]
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            inputs: Tensor = torch.zeros((1, *space.variable_shape), dtype=parameter.dtype, device=parameter.device)
            outputs = space.forward(model.eval(), {}, inputs)
            dimensions = {2, 3} if isinstance(space, TokenSpace) else {2}
            return int(outputs.shape[-1]) if outputs.dim() in dimensions else None
    # The model is foreign code; Task runs it again and says what it raises.
    except Exception:  # noqa: BLE001
        return None
    finally:
        for module, training in flags:
            module.training = training


def client_description(name: str, client: object) -> dict[str, Any]:
    """A client or a defense as JSON holds it."""
    return plain(described(name, client), name)


def _refuse_other_texts(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Texts that a trained model would read wrongly."""
    texts, name = checkpoint.space.texts, repr(dataset.name)
    if (texts is None) != (dataset.tokens is None):
        kind, other = ("images or rows", "texts") if texts is None else ("texts", "none")
        text = f"expected data of {kind}, on which the checkpoint was trained, got {other} in {name}; use other data"
        raise BadSettings("models", [Fault(("weights",), text)])
    if texts is None or dataset.tokens is None:
        return
    faults: list[Fault] = []
    if dataset.objective != texts.objective:
        text = f"expected data with objective {texts.objective}, as in the training, got {dataset.objective}; add it"
        faults.append(Fault(("weights",), text))
    if vocabulary_digest(dataset.tokens) != texts.words:
        text = (
            f"expected the tokenizer of the training, got another one for {name}; give data the tokenizer, vocabulary "
            "and texts of the training, or a tokenizer from a file to both"
        )
        faults.append(Fault(("weights",), text))
    if faults:
        raise BadSettings("models", faults)


def _refuse_other_shape(checkpoint: Checkpoint, dataset: Dataset) -> None:
    _refuse_other_texts(checkpoint, dataset)
    if checkpoint.space.shape == dataset.input_shape:
        return
    if checkpoint.space.texts is not None:
        length = checkpoint.space.shape[0]
        text = (
            f"expected texts of {length} tokens, as in the training, got {dataset.input_shape[0]}; add "
            f"settings: {{length: {length}}} to data"
        )
        raise BadSettings("models", [Fault(("weights",), text)])
    side = checkpoint.space.shape[-1]
    text = (
        f"expected data with inputs of shape {list(checkpoint.space.shape)}, on which the checkpoint was trained, got "
        f"{list(dataset.input_shape)} of {dataset.name!r}; add size: {side} to data, or use other weights"
    )
    raise BadSettings("models", [Fault(("weights",), text)])


def _enough(outputs: int, dataset: Dataset) -> int:
    if outputs >= dataset.num_classes:
        return outputs
    text = (
        f"expected a model with at least {dataset.num_classes} outputs (classes of {dataset.name!r}), got {outputs}; "
        "use data with its classes"
    )
    raise BadSettings("models", [Fault((), text)])
