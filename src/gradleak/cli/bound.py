"""`gradleak bound`: what no attacker of a stated class can do better than, on random examples of some data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from gradleak.audits.bounds import BoundFacts, facts_of
from gradleak.audits.ceiling_words import bound_sentences
from gradleak.audits.report.bound_page import Bounded, write_bound_page
from gradleak.cli import loading
from gradleak.cli.clients import ClientName, ClientSettings, client_from_words, settings_of
from gradleak.cli.console import console, errors, print_json
from gradleak.cli.defenses import DefenseWords, defenses_from_words
from gradleak.clients import Client, Gradient
from gradleak.defenses import Defense
from gradleak.errors import BadInput, refuse
from gradleak.tasks import ImageSpace, InputSpace, TabularSpace, Task

if TYPE_CHECKING:
    from gradleak.bounds import LeakageBound
    from gradleak.zoo.data import Dataset

T = TypeVar("T")

_IMAGE_RANK = 3
_PRIORS = ("smoothness", "none")


@dataclass(frozen=True)
class _Settings:
    """What the computation takes."""

    client: Client
    defenses: Sequence[Defense]
    prior: str
    seed: int
    max_seconds: float


def bound(
    data: Annotated[str, typer.Option(help="Examples: a name of list data, or a path.")],
    model: loading.ModelName = None,
    weights: loading.WeightsFile = None,
    model_seed: loading.ModelSeed = 0,
    input_shape: loading.Shape = None,
    mean: loading.Mean = None,
    std: loading.Std = None,
    num_classes: loading.Classes = None,
    defense: DefenseWords = None,
    client: ClientName = None,
    client_set: ClientSettings = None,
    mode: loading.ModeName = None,
    dropout: loading.DropoutName = None,
    examples: Annotated[int, typer.Option(help="How many bounds, each of its own random examples.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Private examples that share an update.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the choice of examples and of private draws.")] = 0,
    prior: Annotated[
        str, typer.Option(metavar="smoothness|none", help="What an attacker knows of images, for a second ceiling.")
    ] = "smoothness",
    max_seconds: Annotated[
        float, typer.Option(help="For each; beyond, the leading part of the spectrum stands for the whole.")
    ] = 600.0,
    out: Annotated[Path | None, typer.Option(help="Folder for bound.html, pictures and bound.json.")] = None,
    threads: loading.Threads = 1,
    as_json: loading.AsJson = False,
) -> None:
    """What can nobody do better than? The Cramer-Rao ceiling of random examples, under a client and defenses.

    It holds for every unbiased attacker; with a prior there is a second ceiling, for all of them on average. An attack
    that fails proves nothing, this does: for the class of attackers that it names. Exit code 2: a mistake.
    """
    problems = _problems(examples, batch_size, seed, prior, max_seconds)
    shape = loading.numbers("--input-shape", input_shape, int, problems)
    means, stds = loading.numbers("--mean", mean, float, problems), loading.numbers("--std", std, float, problems)
    defenses = _kept(problems, lambda: defenses_from_words(defense or ()))
    words = _kept(problems, lambda: settings_of(tuple(client_set or ()), mode=mode, dropout=dropout))
    acting = _kept(problems, lambda: client_from_words(client, words or {}, Gradient()))
    checkpoint = _kept(problems, lambda: loading.checkpoint_of(model, weights))
    dataset = _kept(problems, lambda: _dataset(data, shape, num_classes, seed))
    refuse(problems)
    assert dataset is not None  # refused above; said again for the type checker
    stored = _space(dataset) if checkpoint is None else checkpoint.input_space()
    if checkpoint is not None and shape is None:
        dataset = _resized(dataset, tuple(stored.shape))
    space = loading.input_space(stored, shape, means, stds)
    assert space is not None  # the data have a shape
    _refuse_other_inputs(dataset, space, data)
    classes = num_classes or (checkpoint.num_classes if checkpoint is not None else dataset.num_classes)
    task = Task(loading.model_of(model, weights, model_seed, checkpoint, space, classes), space, classes)
    chosen = _chosen(dataset, examples, batch_size, seed)
    settings = _Settings(acting or Gradient(), defenses or [], prior, seed, max_seconds)
    with loading.torch_threads(threads):
        found = [_bounded(task, dataset, positions, settings) for positions in chosen]
    _show(found, batch_size, out, _title(model or str(weights), data, settings), as_json=as_json)


def _kept(problems: list[str], make: Callable[[], T]) -> T | None:
    """What `make` returns; None if it fails, and then what is wrong is added to the problems."""
    try:
        return make()
    except BadInput as error:
        problems += error.problems
        return None


def _problems(examples: int, batch_size: int, seed: int, prior: str, max_seconds: float) -> list[str]:
    problems = [
        f"--{name}: expected at least {least}, got {value}; give {least} or more"
        for name, value, least in (("examples", examples, 1), ("batch-size", batch_size, 1), ("seed", seed, 0))
        if value < least
    ]
    if prior not in _PRIORS:
        problems.append(f"--prior: expected {' or '.join(_PRIORS)}, got {prior!r}; choose one")
    if not max_seconds > 0:
        problems.append(f"--max-seconds: expected more than 0, got {max_seconds:g}; 600 is the default")
    return problems


def _dataset(name: str, shape: tuple[float, ...] | None, classes: int | None, seed: int) -> "Dataset":
    """Data by name or path, in the size that was asked for.

    Returns:
        The examples.

    Raises:
        BadInput: when there are none.
    """
    from gradleak.audits.by_name.data import dataset_named
    from gradleak.audits.faults import BadSettings

    try:
        dataset = dataset_named(name, {}, classes=classes, seed=seed)
    except BadSettings as error:
        raise BadInput(f"--data: {fault.text}" for fault in error.faults) from None
    return dataset if shape is None else _resized(dataset, tuple(int(side) for side in shape))


def _resized(dataset: "Dataset", shape: tuple[int, ...]) -> "Dataset":
    square = len(shape) == len(dataset.input_shape) == _IMAGE_RANK and shape[1] == shape[2]
    return dataset.resized(shape[1]) if square and shape != dataset.input_shape else dataset


def _space(dataset: "Dataset") -> InputSpace:
    shape = dataset.input_shape
    if dataset.tokens is not None:
        text = "--data: expected images or rows of numbers, got texts, whose tokens have no derivative; use other data"
        raise BadInput([text])
    if len(shape) == _IMAGE_RANK:
        return ImageSpace((shape[0], shape[1], shape[2]))
    if len(shape) == 1:
        return TabularSpace(shape[0])
    raise BadInput([f"--data: expected images or rows of numbers, got inputs of shape {list(shape)}; use other data"])


def _refuse_other_inputs(dataset: "Dataset", space: InputSpace, name: str) -> None:
    if tuple(space.shape) != dataset.input_shape:
        text = f"--data {name}: expected inputs of shape {list(space.shape)}, got {list(dataset.input_shape)}"
        raise BadInput([f"{text}; use other data, or another --input-shape"])


def _chosen(dataset: "Dataset", count: int, batch_size: int, seed: int) -> list[list[int]]:
    """Positions of each batch, drawn without replacement.

    Returns:
        One list for each batch.

    Raises:
        BadInput: when there are too few examples.
    """
    wanted = count * batch_size
    if wanted > len(dataset):
        text = f"--examples: expected at most {len(dataset) // batch_size} batches of {batch_size} of {dataset.name}"
        raise BadInput([f"{text}, got {count}; give fewer"])
    positions = dataset.indices(wanted, seed).tolist()
    return [positions[start : start + batch_size] for start in range(0, wanted, batch_size)]


def _bounded(task: Task, dataset: "Dataset", positions: list[int], settings: _Settings) -> Bounded:
    from gradleak.bounds import leakage_bound
    from gradleak.bounds.costs import exact_seconds

    inputs, targets = dataset.inputs[positions], dataset.targets[positions]
    cost = exact_seconds(task, inputs, targets, client=settings.client, defenses=settings.defenses, seed=settings.seed)
    if cost > settings.max_seconds:
        errors.print(
            Text(
                f"The whole spectrum of {inputs.numel()} unknowns would take about {cost:.0f} s, more than "
                f"--max-seconds {settings.max_seconds:g}: its leading part is taken, which gives a ceiling above the "
                "true one"
            ),
            soft_wrap=True,
        )
    found: LeakageBound = leakage_bound(
        task,
        inputs,
        targets,
        client=settings.client,
        defenses=settings.defenses,
        prior="smoothness" if settings.prior == "smoothness" else None,
        seed=settings.seed,
        max_seconds=settings.max_seconds,
    )
    bounds = task.space.bounds if task.space.bounds is not None else (0.0, 1.0)
    return Bounded(
        tuple(positions), facts_of(found, settings.defenses), inputs, found.pixel_std, found.singular_values, bounds
    )


def _title(model: str, data: str, settings: _Settings) -> str:
    defenses = ", ".join(type(defense).__name__ for defense in settings.defenses) or "no defense"
    return f"{model} on {data}, {type(settings.client).__name__}, {defenses}"


# ---- what is shown -----------------------------------------------------------------------------------------------


def _show(found: Sequence[Bounded], batch_size: int, out: Path | None, title: str, *, as_json: bool) -> None:
    verdict = bound_sentences([one.facts for one in found], batch_size)
    page = None if out is None else write_bound_page(out, title, verdict, found)
    if as_json:
        rows = [{"examples": list(one.examples), **one.facts.model_dump()} for one in found]
        print_json({"verdict": list(verdict), "bounds": rows, "page": None if page is None else str(page)})
        return
    console.print(Text(verdict[0], style="bold"))
    for sentence in verdict[1:]:
        console.print(Text(sentence))
    console.print(Text(title, style="dim"))
    console.print()
    console.print(_table(found))
    console.print()
    for sentence in found[0].facts.assumptions:
        console.print(Text(f"- {sentence}"))
    if page is not None:
        console.print(Text(f"Pictures: {page}"), soft_wrap=True)


def _table(found: Sequence[Bounded]) -> Table:
    prior = any(not math.isnan(one.facts.prior_psnr_ceiling) for one in found)
    table = Table(title=Text("ceilings in dB"), title_justify="left", box=None, pad_edge=False)
    table.add_column("example", overflow="fold")
    for column in ("noise", "rounding", *(("prior",) if prior else ()), "rank", "free", "8 bits", "s"):
        table.add_column(column, justify="right")
    for one in found:
        facts = one.facts
        table.add_row(
            ", ".join(map(str, one.examples)),
            decibels(facts.psnr_ceiling),
            decibels(facts.precision_ceiling),
            *((decibels(facts.prior_psnr_ceiling),) if prior else ()),
            _rank(facts),
            str(facts.free_directions),
            f"{100 * facts.recoverable:.0f} %",
            f"{facts.seconds:.1f}",
        )
    return table


def decibels(value: float) -> str:
    """A ceiling: one decimal, or `none` where noise sets none, and `free` where no estimate of the whole exists."""
    if math.isnan(value):
        return "-"
    return ("none" if value > 0 else "free") if math.isinf(value) else f"{value:.1f}"


def _rank(facts: BoundFacts) -> str:
    found = f"{facts.rank}/{facts.unknowns}"
    return f">={found}" if facts.status == "partial" else found
