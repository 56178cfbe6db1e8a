"""From the words on the command line to a task and an update; shared by `attack`, `check` and `inspect`."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, cast, get_args

import torch
import typer
from torch import nn

from gradleak import threads
from gradleak.cli.clients import client_from_words, settings_of
from gradleak.cli.defenses import defenses_from_words
from gradleak.cli.factories import checkpointed_model, load_model
from gradleak.clients import Client
from gradleak.clients.stateless import DropoutChoice, Mode
from gradleak.defenses import Defense
from gradleak.errors import BadInput, refuse
from gradleak.evidence import Evidence, load_update
from gradleak.tasks import Classified, ImageSpace, InputSpace, TabularSpace, Task
from gradleak.tokens import TokenSpace
from gradleak.training.checkpoints import Checkpoint, find_checkpoint
from gradleak.updates import UpdateKind

UpdateFile = Annotated[Path, typer.Argument(metavar="UPDATE.safetensors", help="The update, as save_update writes it.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="package.module:factory (called without arguments), or a name of list models. "
        "Left out with a checkpoint of gradleak train as --weights.",
    ),
]
WeightsFile = Annotated[Path | None, typer.Option(help="Weights from before the client's step, .safetensors.")]
ModelSeed = Annotated[int, typer.Option(help="Seed of the weights of a model of the zoo, without --weights.")]
Shape = Annotated[str | None, typer.Option(metavar="3,32,32", help="Shape of one input; one number for rows.")]
Mean = Annotated[str | None, typer.Option(metavar="M,M,M", help="Mean that the client subtracts from images.")]
Std = Annotated[str | None, typer.Option(metavar="S,S,S", help="Standard deviation that it divides by.")]
Classes = Annotated[int | None, typer.Option(help="Number of classes.")]
Kind = Annotated[str | None, typer.Option(metavar="gradient|delta", help="What the tensors are.")]
BatchSize = Annotated[int | None, typer.Option(help="Number of private examples.")]
ModeName = Annotated[str | None, typer.Option(metavar="eval|train", help="Mode of the client's model.")]
DropoutName = Annotated[str | None, typer.Option(metavar="off|fixed_mask|random", help="Dropout on the client.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="messages|FILE.txt", help="Texts whose words the token ids are, so that they can be read."),
]
Threads = Annotated[int, typer.Option(help="Processor threads; for small models 1 is quickest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@dataclass(frozen=True)
class Words:
    """What the command line says about an update and its task; None where it leaves it to the file.

    Attributes:
        update: the file with the update.
        model: `package.module:factory`, or the name of a model of the zoo; None for what the checkpoint says.
        weights: the file with the model's weights.
        model_seed: seed of a zoo model's weights.
        input_shape: numbers separated by commas.
        mean: numbers separated by commas.
        std: numbers separated by commas.
        num_classes: number of classes.
        kind: `gradient` or `delta`.
        batch_size: number of private examples.
        labels: class indices separated by commas.
        mode: `eval` or `train`.
        dropout: `off`, `fixed_mask` or `random`.
        client: name of the client that made the update.
        client_settings: `key=value` each, in place of the client's own.
        defenses: `Name key=value` each, in order, in place of the file's; empty leaves the file's.
        tokenizer: data whose words the token ids are.
    """

    update: Path
    model: str | None = None
    weights: Path | None = None
    model_seed: int = 0
    input_shape: str | None = None
    mean: str | None = None
    std: str | None = None
    num_classes: int | None = None
    kind: str | None = None
    batch_size: int | None = None
    labels: str | None = None
    mode: str | None = None
    dropout: str | None = None
    client: str | None = None
    client_settings: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()
    tokenizer: str | None = None


def load(words: Words) -> tuple[Evidence, Task]:
    """Load what the words name.

    Returns:
        The evidence, with what the command line says in place of what the file says, and the task.

    Raises:
        BadInput: when a word cannot be read, or a file or model cannot be used.
    """
    problems = [
        f"--{name}: expected {' or '.join(choices)}, got {value!r}; choose one"
        for name, value, choices in (
            ("kind", words.kind, get_args(UpdateKind)),
            ("mode", words.mode, get_args(Mode)),
            ("dropout", words.dropout, get_args(DropoutChoice)),
        )
        if value is not None and value not in choices
    ]
    if words.batch_size is not None and words.batch_size < 1:
        problems.append(f"--batch-size: expected at least 1, got {words.batch_size}; count the private examples")
    shape = numbers("--input-shape", words.input_shape, int, problems)
    mean = numbers("--mean", words.mean, float, problems)
    std = numbers("--std", words.std, float, problems)
    labels = numbers("--labels", words.labels, int, problems)
    if labels is not None and words.batch_size is not None and len(labels) != words.batch_size:
        problems.append(
            f"--labels: expected {words.batch_size} (--batch-size), got {len(labels)}; give one per example"
        )
    settings: dict[str, object] = {}
    named: Client | None = None
    try:
        settings = settings_of(words.client_settings, mode=words.mode, dropout=words.dropout)
        named = None if words.client is None else client_from_words(words.client, settings, None)
    except BadInput as error:
        problems += error.problems
    declared: list[Defense] | None = None
    try:
        declared = defenses_from_words(words.defenses) if words.defenses else None
    except BadInput as error:
        problems += error.problems
    refuse(problems)
    evidence = _with_facts(_load_update(words, named), words, labels, declared)
    client = named if named is not None else client_from_words(None, settings, evidence.client)
    if client is not evidence.client:
        evidence = replace(evidence, client=client, threat=replace(evidence.threat, client_known=True))
    checkpoint = checkpoint_of(words.model, words.weights)
    stored = evidence.space if evidence.space is not None or checkpoint is None else checkpoint.input_space()
    space = with_words(input_space(stored, shape, mean, std), words.tokenizer)
    num_classes = words.num_classes if words.num_classes is not None else evidence.num_classes
    if num_classes is None and checkpoint is not None:
        num_classes = checkpoint.num_classes
    if num_classes is None:
        problems.append("number of classes: expected one, got none in the file; add --num-classes")
    if space is None:
        problems.append("input shape: expected one, got none in the file; add --input-shape, for instance 3,32,32")
    refuse(problems)
    assert space is not None  # both are refused above; said again for the type checker
    assert num_classes is not None
    built_in = evidence.defenses or ()
    model = model_of(
        words.model, words.weights, words.model_seed, checkpoint, space, num_classes, built_in, evidence.classified
    )
    return evidence, Task(model, space, num_classes, classified=evidence.classified)


def _load_update(words: Words, named: Client | None) -> Evidence:
    """The update; a client that is named says what a file holds that does not say it itself.

    Returns:
        The evidence as it is in the file.

    Raises:
        BadInput: when it cannot be read, or its kind is not known.
    """
    kind = cast(UpdateKind | None, words.kind)
    try:
        return load_update(words.update, kind=kind)
    except BadInput:
        if named is None or kind is not None:
            raise
        return load_update(words.update, kind=named.kind)


def model_of(
    model: str | None,
    weights: Path | None,
    seed: int,
    checkpoint: Checkpoint | None,
    space: InputSpace,
    classes: int,
    defenses: Sequence[Defense] = (),
    classified: Classified = "example",
) -> nn.Module:
    """The model that the command line names, or else the one that the checkpoint is of; see `load_model`."""
    if model is not None:
        return load_model(model, weights, seed, space, classes, defenses, classified)
    assert checkpoint is not None  # refused by `checkpoint_of`; said again for the type checker
    assert weights is not None
    return checkpointed_model(checkpoint, weights, space, classes, defenses)


def checkpoint_of(model: str | None, weights: Path | None) -> Checkpoint | None:
    """What the weights say about themselves, if they are a checkpoint.

    Args:
        model: what `--model` says, or None.
        weights: the file, or None.

    Returns:
        The facts; None for weights without any, or no weights.

    Raises:
        BadInput: when there is neither a model nor a checkpoint, or the file cannot be read.
    """
    found = None if weights is None else find_checkpoint(weights)
    if model is None and found is None:
        got = "none" if weights is None else f"none, and in {weights} tensors alone"
        raise BadInput(
            [f"--model: expected a model, got {got}; add it, or a checkpoint of gradleak train as --weights"]
        )
    return found


@contextmanager
def torch_threads(count: int) -> Generator[None, None, None]:
    """Compute on this many threads, then on as many as before.

    One thread is the commands' default: small operations gain nothing from more, slow down many times when other
    processes want the same cores, and give the same bits only at the same count.

    Args:
        count: at least 1.

    Yields:
        Nothing.
    """
    refuse([f"--threads: expected at least 1, got {count}; give 1 or more"] if count < 1 else [])
    with threads.torch_threads(count):
        yield


def numbers(option: str, text: str | None, kind: type, problems: list[str]) -> tuple[float, ...] | None:
    """Numbers separated by commas; None if there is no text, or if a problem was added."""
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        problems.append(f"{option}: expected {wanted} separated by commas, got {text!r}; correct it")
        return None


def _with_facts(
    evidence: Evidence, words: Words, labels: tuple[float, ...] | None, declared: Sequence[Defense] | None
) -> Evidence:
    """Batch size, labels and defenses from the command line, which the attacker then holds."""
    batch_size, targets, threat = evidence.batch_size, evidence.targets, evidence.threat
    if labels is not None:
        targets, threat = torch.tensor(labels, dtype=torch.long), replace(threat, labels_known=True)
        batch_size = batch_size if batch_size is not None else len(labels)
    if words.batch_size is not None:
        batch_size = words.batch_size
    if batch_size is not None:
        threat = replace(threat, batch_size_known=True)
    defenses = evidence.defenses
    if declared is not None:
        defenses, threat = tuple(declared), replace(threat, defense_known=True)
    return replace(evidence, batch_size=batch_size, targets=targets, defenses=defenses, threat=threat)


def input_space(
    stored: InputSpace | None,
    shape: tuple[float, ...] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> InputSpace | None:
    """Put what the command line says in place of what the file says.

    Returns:
        The input space; None if neither gives a shape.

    Raises:
        BadInput: when the shape is not one or three positive numbers, or mean and std do not fit it.
    """
    if isinstance(stored, TokenSpace) and (shape is not None or mean is not None or std is not None):
        got = "--input-shape" if shape is not None else "--mean or --std"
        raise BadInput([f"{got}: expected none for texts, whose file says what tokens are, got one; leave it out"])
    if shape is not None and len(shape) == 1:
        stored = TabularSpace(int(shape[0]))
    elif shape is not None:
        sides = cast(tuple[int, int, int], shape)  # ImageSpace itself refuses another length
        stored = replace(stored, shape=sides) if isinstance(stored, ImageSpace) else ImageSpace(sides)
    if mean is None and std is None:
        return stored
    if not isinstance(stored, ImageSpace):
        raise BadInput(["--mean, --std: expected images to normalize, got none; add --input-shape, or leave them out"])
    return replace(stored, mean=mean if mean is not None else stored.mean, std=std if std is not None else stored.std)


def with_words(space: InputSpace | None, reference: str | None) -> InputSpace | None:
    """An input space whose tokens can be read.

    Args:
        space: of the update.
        reference: a name of list data or a path to texts; None leaves the space as it is.

    Returns:
        The space, with the words of the tokenizer of these texts.

    Raises:
        BadInput: when these are no texts, or have other words than the model.
    """
    if reference is None:
        return space
    from gradleak.zoo.data import load as load_data

    known = load_data(reference).tokens
    if not isinstance(space, TokenSpace) or known is None:
        got = "images or rows" if known is not None else f"{reference}, which is none"
        raise BadInput([f"--tokenizer: expected texts, got {got}; leave it out"])
    if known.vocabulary != space.vocabulary:
        got = f"{known.vocabulary} of {reference}"
        raise BadInput(
            [f"--tokenizer: expected {space.vocabulary} token ids, as the update has, got {got}; use others"]
        )
    return replace(space, to_text=known.to_text)
