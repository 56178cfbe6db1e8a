"""`gradleak inspect`: whether a model is twice differentiable, and what that means for an audit of it."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gradleak.cli import loading
from gradleak.cli.console import console, facts_table, print_json
from gradleak.cli.defenses import DefenseWords, defenses_from_words
from gradleak.defenses import Defense
from gradleak.errors import BadInput, refuse
from gradleak.inspection import Finding, Inspection, inspect
from gradleak.inspection.result import Verdict
from gradleak.tasks import Classified, ImageSpace, InputSpace, Task
from gradleak.tokens import TokenSpace
from gradleak.zoo.data import Dataset, with_objective
from gradleak.zoo.data import load as load_data

_PLACES_SHOWN = 3
_NAMES_SHOWN = 4
_SHAPE, _CLASSES = (3, 32, 32), 10
_STYLES: dict[Verdict, str] = {"smooth": "bold green", "kinks": "bold yellow", "steps": "bold yellow"}
_REAL = {1: "digits", 3: "photographs"}
"""Bundled images by their number of channels."""


def inspect_model(
    model: loading.ModelName = None,
    weights: loading.WeightsFile = None,
    model_seed: loading.ModelSeed = 0,
    input_shape: loading.Shape = None,
    mean: loading.Mean = None,
    std: loading.Std = None,
    num_classes: loading.Classes = None,
    defense: DefenseWords = None,
    data: Annotated[
        str | None, typer.Option(help="Real inputs: a name of list data, or a path. Bundled images by default.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="How many inputs; 2 show whether examples are coupled.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of inputs and of the probes.")] = 0,
    threads: loading.Threads = 1,
    as_json: loading.AsJson = False,
) -> None:
    """Is a model twice differentiable? Where not, what does each attack do, and what may be replaced in an audit?

    Every kernel that runs on a real input is measured; no table of layer names is consulted. The model is not changed.
    Without a checkpoint that says otherwise, inputs are 3,32,32 and classes 10; with texts as data (messages, a .txt
    file), inputs are their tokens. A defense that is part of the model is
    built in, and closed forms are tried on an update that went through all that are named.
    """
    problems: list[str] = []
    shape = loading.numbers("--input-shape", input_shape, int, problems)
    means = loading.numbers("--mean", mean, float, problems)
    stds = loading.numbers("--std", std, float, problems)
    defenses: list[Defense] = []
    try:
        defenses = defenses_from_words(defense or ())
    except BadInput as error:
        problems += error.problems
    refuse(problems)
    checkpoint = loading.checkpoint_of(model, weights)
    dataset = None if data is None else load_data(data)
    texts = dataset is not None and dataset.tokens is not None
    stored = ImageSpace(_SHAPE) if checkpoint is None else checkpoint.input_space()
    space = loading.input_space(dataset.tokens if dataset is not None and texts else stored, shape, means, stds)
    assert space is not None  # there is always a shape
    if num_classes is None:
        num_classes = checkpoint.num_classes if checkpoint else dataset.num_classes if dataset and texts else _CLASSES
    name = data if data is not None else _bundled(space)
    dataset = load_data(name) if dataset is None and name is not None else dataset

    def task_of(classes: int, classified: Classified = "example") -> Task:
        network = loading.model_of(model, weights, model_seed, checkpoint, space, classes, defenses, classified)
        return Task(network, space, classes, classified=classified)

    if dataset is not None and isinstance(space, TokenSpace):
        task, dataset = _of_texts(task_of, num_classes, dataset, space)
    else:
        task = task_of(num_classes)
    inputs, targets = (None, None) if dataset is None else _batch(dataset, space, examples, seed)
    if targets is not None and task.classified == "example":
        targets = targets % task.num_classes
    with loading.torch_threads(threads):
        found = inspect(task, inputs, targets, defenses=defenses, seed=seed)
    if as_json:
        print_json({"model": model, "data": name, "defenses": list(defense or ()), **found.to_dict()})
    else:
        _print(", ".join([model or str(weights), *(defense or ())]), name, found)


def _bundled(space: InputSpace) -> str | None:
    """Bundled images that fit, if any do."""
    square = isinstance(space, ImageSpace) and space.shape[1] == space.shape[2]
    return _REAL.get(space.shape[0]) if square else None


def _of_texts(
    task_of: Callable[..., Task], num_classes: int, dataset: Dataset, space: TokenSpace
) -> tuple[Task, Dataset]:
    """A classifier of texts, or else a language model: what its outputs are decides.

    Returns:
        The task, and the texts with targets for it.

    Raises:
        BadInput: what is wrong with a classifier, if it is neither.
    """
    try:
        return task_of(num_classes), dataset
    except BadInput as problem:
        try:
            return task_of(space.vocabulary, "token"), with_objective(dataset, "causal")
        except BadInput:
            raise problem from None


def _batch(dataset: Dataset, space: InputSpace, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random examples of the data, in the size that the model takes.

    Returns:
        Inputs `[N, ...]` and targets `[N]`.

    Raises:
        BadInput: when the data have fewer examples.
    """
    if isinstance(space, ImageSpace) and space.shape[1] == space.shape[2]:
        dataset = dataset.resized(space.shape[1])
    if len(dataset) < count:
        raise BadInput([f"--examples: expected at most {len(dataset)} for {dataset.name}, got {count}; give fewer"])
    return dataset.sample(count, seed=seed, distinct_labels=False)


def _print(model: str, data: str | None, found: Inspection) -> None:
    """The verdict, then what was found, then what it means."""
    console.print(Text(found.headline, style=_STYLES.get(found.verdict, "bold red")))
    where = found.inputs.replace("given inputs", f"random examples of {data}")
    console.print(Text(f"{model}, run on {where}; every kernel was measured there"))
    console.print()
    if found.findings:
        console.print(_findings(found.findings))
        console.print()
    console.print(facts_table("measured", _facts(found)))
    console.print()
    console.print(_routes(found))
    console.print()
    if found.replacements:
        console.print(_replacements(found))


def _findings(findings: Sequence[Finding]) -> Table:
    table = Table(title="operations", title_justify="left", box=None, pad_edge=False)
    for column in ("operation", "what", "where"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        places = list(finding.places[:_PLACES_SHOWN])
        if len(finding.places) > _PLACES_SHOWN:
            places.append(f"and {len(finding.places) - _PLACES_SHOWN} more")
        if len(finding.modes) == 1:
            places.append(f"[{finding.modes[0]} mode only]")
        what = f"{finding.kind}: {finding.detail}" + (", on weights" if finding.on_weights else "")
        table.add_row(Text(finding.operation), Text(what), Text("\n".join(places)))
    return table


def _facts(found: Inspection) -> list[tuple[str, str]]:
    """What was measured on the whole model, one line each; what there is none of is left out."""
    derivatives, parameters, conditions = found.derivatives, found.parameters, found.conditions
    in_float64 = "" if derivatives.float64 else " (not wholly in float64: the model computes in less)"
    rows = [
        ("double backward", _double_backward(found)),
        ("differences", _differences(found) + in_float64),
        ("first derivative", f"off the loss's own differences by {_relative(derivatives.first_error)}"),
        ("curvature", _curvature(derivatives.curvature)),
        ("parameters", _parameters(found)),
        ("precision", _precision(found)),
    ]
    if parameters.tied:
        rows.append(("tied", _some([f"{name} = {first}" for name, first in parameters.tied])))
    if conditions.batch_norm:
        mode = f"; train and eval updates differ by {_relative(conditions.mode_difference)}"
        rows.append(("BatchNorm", f"{len(conditions.batch_norm)} modules{mode}: the audit must say the client's mode"))
    if conditions.without_running_statistics:
        rows.append(("", f"batch statistics in eval mode too: {_some(conditions.without_running_statistics)}"))
    if conditions.coupled:
        rows.append(
            ("coupled", f"an example's output depends on the others in {' and '.join(conditions.coupled)} mode")
        )
    if conditions.dropout:
        rows.append(("dropout", f"{_some(conditions.dropout)}: the audit must say what the client did"))
    if conditions.random:
        rows.append(("random", f"two runs differ in {' and '.join(conditions.random)} mode"))
    if conditions.in_place:
        rows.append(("in place", _some(conditions.in_place)))
    return rows


def _double_backward(found: Inspection) -> str:
    lines: list[str] = []
    for mode in ("eval", "train"):
        checks = [check for check in found.derivatives.double_backward if check.mode == mode]
        outcomes = ["runs" if check.runs else check.error for check in checks]
        words = [f"{check.kernels} kernels: {outcome}" for check, outcome in zip(checks, outcomes, strict=True)]
        lines.append(outcomes[0] if len(set(outcomes)) == 1 else "; ".join(words))
    if len(set(lines)) == 1:
        return f"{lines[0]} (eval and train mode)"
    return "\n".join(f"{mode}: {line}" for mode, line in zip(("eval", "train"), lines, strict=True))


def _differences(found: Inspection) -> str:
    derivatives = found.derivatives
    if math.isnan(derivatives.best_step):
        return "no step gives a finite derivative"
    against = "of double backward" if derivatives.runs else "of a step ten times as large"
    words = f"within {_relative(derivatives.best_error)} {against} at step {derivatives.best_step:.0e}"
    if derivatives.jittered:
        words += ", off kinks that lie exactly at these inputs"
    return words


def _curvature(curvature: float) -> str:
    if math.isnan(curvature):
        return "cannot be computed"
    if curvature == 0:
        return "none: outputs are piecewise linear in the input"
    return f"outputs bend by {_relative(curvature)} of their slope for a unit move of the input"


def _parameters(found: Inspection) -> str:
    parameters = found.parameters
    groups = [
        (f"{len(parameters.without_gradient)} outside the loss's graph", parameters.without_gradient),
        (f"{len(parameters.zero_gradient)} with a gradient of zeros", parameters.zero_gradient),
        (f"{len(parameters.frozen)} frozen", parameters.frozen),
    ]
    words = [f"{what} ({_some(names)})" for what, names in groups if names]
    return f"{parameters.total} trained tensors" + (": " + "; ".join(words) if words else ", all with a gradient")


def _precision(found: Inspection) -> str:
    precision = ", ".join(dtype for dtype, _ in found.conditions.precision)
    inside = [dtype for dtype in found.conditions.inside if dtype not in precision]
    return precision + (f"; computes in {', '.join(inside)} inside" if inside else "")


def _routes(found: Inspection) -> Table:
    table = Table(title="what the attacks do", title_justify="left", box=None, pad_edge=False)
    table.add_column("attack", overflow="fold", max_width=26)
    table.add_column("")
    table.add_column("why", overflow="fold")
    words = {True: "yes", None: "partly", False: "no"}
    for route in found.routes:
        table.add_row(Text(route.attack), words[route.works], Text(route.why))
    return table


def _replacements(found: Inspection) -> Table:
    table = Table(title="in a faithful audit", title_justify="left", box=None, pad_edge=False)
    table.add_column("replacement", overflow="fold", max_width=30)
    table.add_column("")
    table.add_column("why", overflow="fold")
    for replacement in found.replacements:
        table.add_row(Text(replacement.what), "allowed" if replacement.faithful else "not", Text(replacement.why))
    return table


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _relative(value: float) -> str:
    if math.isnan(value):
        return "an unknown share"
    return f"{value:.1%}" if value >= 1e-3 else f"{value:.0e}"
