"""`gradleak check`: whether an update file is what the client makes of the true batch, and if not, why."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gradleak.cli import loading
from gradleak.cli.clients import ClientName, ClientSettings
from gradleak.cli.console import console, number, print_json
from gradleak.cli.defenses import DefenseWords
from gradleak.consistency import Consistency, check_consistency
from gradleak.errors import BadInput, refuse
from gradleak.evidence import Evidence
from gradleak.tasks import ImageSpace, InputSpace
from gradleak.zoo.data import BUNDLED, Dataset, with_objective
from gradleak.zoo.data import load as load_data

_LAYERS_SHOWN = 5
_INCONSISTENT = 2


def check(
    update: loading.UpdateFile,
    data: Annotated[
        str, typer.Option(help="The true batch: a name of list data, or a path (.npz, .safetensors, a folder, ...).")
    ],
    model: loading.ModelName = None,
    indices: Annotated[str | None, typer.Option(metavar="0,5", help="Which examples of the data, in order.")] = None,
    weights: loading.WeightsFile = None,
    model_seed: loading.ModelSeed = 0,
    input_shape: loading.Shape = None,
    mean: loading.Mean = None,
    std: loading.Std = None,
    num_classes: loading.Classes = None,
    kind: loading.Kind = None,
    batch_size: loading.BatchSize = None,
    client: ClientName = None,
    client_set: ClientSettings = None,
    defense: DefenseWords = None,
    mode: loading.ModeName = None,
    dropout: loading.DropoutName = None,
    max_seconds: Annotated[float, typer.Option(help="Time for trying causes.")] = 60.0,
    threads: loading.Threads = 1,
    as_json: loading.AsJson = False,
) -> None:
    """Recompute an update file from its true batch: is it consistent, and if not, why?

    Run this once with a batch that you know before you trust an attack on updates that you captured. The exit code is
    0 if the update is consistent, and 2 if it is not; then it is bad input for an attack.
    """  # noqa: DOC501  # this text is the command's help; the Exit is its last sentence
    words = loading.Words(
        update=update,
        model=model,
        weights=weights,
        model_seed=model_seed,
        input_shape=input_shape,
        mean=mean,
        std=std,
        num_classes=num_classes,
        kind=kind,
        batch_size=batch_size,
        mode=mode,
        dropout=dropout,
        client=client,
        client_settings=tuple(client_set or ()),
        defenses=tuple(defense or ()),
    )
    evidence, task = loading.load(words)
    inputs, targets = _batch(data, indices, evidence, task.space)
    with loading.torch_threads(threads):
        verdict = check_consistency(evidence, task, inputs, targets, max_seconds=max_seconds)
    if as_json:
        print_json(_plain(verdict))
    else:
        _print_verdict(update, verdict)
    if not verdict.consistent:
        raise typer.Exit(_INCONSISTENT)


def _batch(data: str, indices: str | None, evidence: Evidence, space: InputSpace) -> tuple[Tensor, Tensor]:
    """Choose the true batch among the data.

    Returns:
        Inputs `[N, ...]` and targets `[N]`.

    Raises:
        BadInput: when the data cannot be read, or it is not clear which examples are meant.
    """
    problems: list[str] = []
    chosen = loading.numbers("--indices", indices, int, problems)
    refuse(problems)
    # Bundled pictures are made in the size that the model takes; data of the user's own stay as they are.
    bundled = any(card.name == data for card in BUNDLED)
    square = isinstance(space, ImageSpace) and space.shape[1] == space.shape[2]
    dataset: Dataset = load_data(data, size=space.shape[1] if bundled and square else None)
    if evidence.classified == "token" and dataset.tokens is not None:
        # Which tokens a client hides is its own draw, so only models of the next token can be checked.
        dataset = with_objective(dataset, "causal")
    if chosen is not None:
        if evidence.batch_size is not None and len(chosen) != evidence.batch_size:
            got = f"{len(chosen)}; name as many"
            raise BadInput([f"--indices: expected {evidence.batch_size} examples, as the update has, got {got}"])
        dataset = dataset.subset(torch.tensor(chosen, dtype=torch.long))
    elif evidence.batch_size != len(dataset):
        wanted = "an unknown number" if evidence.batch_size is None else str(evidence.batch_size)
        got = f"{len(dataset)}; add --indices, for instance 0,5"
        raise BadInput([f"--data {data}: expected the batch of {wanted} examples, got {got}"])
    return dataset.inputs, dataset.targets


def _plain(verdict: Consistency) -> dict[str, object]:
    return {
        "consistent": verdict.consistent,
        "relative_error": verdict.relative_error,
        "scale": verdict.scale,
        "tolerance": verdict.tolerance,
        "precision": verdict.precision,
        "causes": [vars(cause) for cause in verdict.causes],
        "per_layer": dict(verdict.per_layer),
    }


def _print_verdict(update: Path, verdict: Consistency) -> None:
    """The verdict, then the causes, then the layers that differ most."""
    word, style = ("consistent", "bold green") if verdict.consistent else ("NOT consistent", "bold red")
    console.print(Text.assemble((word, style), f": {update.name} differs from the recomputed update by "), end="")
    console.print(Text(f"{number(verdict.relative_error)} (relative error), best scale {number(verdict.scale)}"))
    for cause in verdict.causes:
        certainty = "cause" if cause.proven else "perhaps"
        left = "" if cause.relative_error != cause.relative_error else f" [error then {number(cause.relative_error)}]"
        console.print(Text.assemble((f"{certainty}: {cause.name}", "bold"), f": {cause.explanation}{left}"))
    console.print(Text(f"precision: {verdict.precision}"))
    if verdict.consistent or not verdict.per_layer:
        return
    table = Table(title="layers that differ most", title_justify="left", box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("relative error", justify="right")
    for name, error in sorted(verdict.per_layer.items(), key=lambda layer: -layer[1])[:_LAYERS_SHOWN]:
        table.add_row(Text(name), number(error))
    console.print(table)
