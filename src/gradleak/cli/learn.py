"""`gradleak learn`: train an inverter on public data, for the attack `learned`."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gradleak.cli import loading
from gradleak.cli.clients import ClientName, ClientSettings, client_from_words, settings_of
from gradleak.cli.console import console, errors, facts_table, print_json
from gradleak.cli.data_words import dataset_of, task_of
from gradleak.cli.defenses import DefenseWords, defenses_from_words
from gradleak.cli.learn_progress import learning_lines
from gradleak.clients import Gradient
from gradleak.errors import BadInput, refuse

if TYPE_CHECKING:
    from gradleak.learning import LearnOutcome, LearnSettings

INCOMPLETE = 3


def learn(
    data: Annotated[str, typer.Option(help="Public examples: a name of list data, or a path.")],
    out: Annotated[Path, typer.Option(help="Folder for the inverter and history.jsonl.")],
    model: loading.ModelName = None,
    weights: loading.WeightsFile = None,
    model_seed: loading.ModelSeed = 0,
    test: Annotated[
        str | None, typer.Option(help="Examples to measure with; a tenth is held out if not given.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels per side; images are resized.")] = None,
    mean: loading.Mean = None,
    std: loading.Std = None,
    num_classes: loading.Classes = None,
    defense: DefenseWords = None,
    client: ClientName = None,
    client_set: ClientSettings = None,
    mode: loading.ModeName = None,
    dropout: loading.DropoutName = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data at most.")] = 30,
    max_minutes: Annotated[float | None, typer.Option(help="End after these minutes.")] = None,
    hidden: Annotated[str, typer.Option(metavar="1000", help="Widths of the hidden layers, with commas.")] = "1000",
    features: Annotated[int, typer.Option(help="Coordinates of the update that are used at most.")] = 4096,
    batch: Annotated[int, typer.Option(help="Examples in a step of training.")] = 256,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    hidden_dropout: Annotated[float, typer.Option(help="Share of hidden units left out in training.")] = 0.2,
    flip: Annotated[bool, typer.Option("--flip", help="Also train on mirrored images.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    save_every: Annotated[float, typer.Option(help="Seconds between places to go on from.")] = 30.0,
    threads: loading.Threads = 1,
    as_json: loading.AsJson = False,
) -> None:
    """Train an inverter, which maps defended updates of single examples to inputs; the same command goes on.

    It is for one state of the model, one client and one list of defenses: an attacker trains it on public data once the
    server has handed the model out. Then: gradleak attack UPDATE --attack learned --inverter OUT/inverter.safetensors.

    Exit codes: 0 the inverter is there, 2 a mistake, or another training in the same folder, 3 interrupted or diverged.

    Raises:
        Exit: when there is no inverter yet.
    """
    from gradleak.learning import learn as train_inverter

    problems: list[str] = []
    widths = loading.numbers("--hidden", hidden, int, problems)
    refuse(problems)
    settings = _settings(
        epochs=epochs,
        max_minutes=max_minutes,
        batch_size=batch,
        lr=lr,
        hidden=tuple(int(width) for width in widths or ()),
        features=features,
        dropout=hidden_dropout,
        flip=flip,
        seed=seed,
        save_every=save_every,
        threads=threads,
    )
    defenses = defenses_from_words(defense or ())
    own = settings_of(tuple(client_set or ()), mode=mode, dropout=dropout)
    examples, tests = dataset_of("--data", data, size), None if test is None else dataset_of("--test", test, size)
    task = task_of(examples, model, weights, model_seed, mean, std, num_classes)
    acting = client_from_words(client, own, Gradient()) or Gradient()
    with learning_lines() as notify:
        outcome = train_inverter(
            task,
            examples,
            out,
            client=acting,
            defenses=defenses,
            test=tests,
            settings=settings,
            model=model or str(weights),
            notify=notify,
        )
    _print(outcome, as_json=as_json)
    if outcome.status != "finished":
        raise typer.Exit(INCOMPLETE)


def _settings(**given: object) -> "LearnSettings":
    from gradleak.learning import LearnSettings

    try:
        return LearnSettings(**given)  # pyright: ignore[reportArgumentType]  # typed by the options above
    except BadInput as error:
        options = {"batch_size": "batch", "dropout": "hidden-dropout"}
        lines = [problem.partition(":") for problem in error.problems]
        raise BadInput(f"--{options.get(name, name).replace('_', '-')}:{rest}" for name, _, rest in lines) from None


def _print(outcome: "LearnOutcome", *, as_json: bool) -> None:
    facts = outcome.facts
    if as_json:
        plain = json.loads(facts.model_dump_json())
        print_json({"status": outcome.status, "message": outcome.message, "path": str(outcome.path), **plain})
    elif facts.quality is not None:
        quality = facts.quality

        def both(ssim: float | None, psnr: float | None) -> str:
            words = [] if ssim is None else [f"SSIM {ssim:.3f}"]
            return ", ".join([*words, *([] if psnr is None else [f"PSNR {psnr:.1f} dB"])]) or "-"

        rows = [
            ("for", f"{facts.model}, {facts.client['name']}, {_names(facts.defenses)}"),
            ("trained on", f"{facts.data}, {facts.examples:,} examples, {facts.steps:,} steps"),
            (f"held out ({quality.examples})", both(quality.ssim, quality.psnr)),
            ("mean input instead", both(quality.mean_ssim, quality.mean_psnr)),
            ("other updates' answers", both(quality.shuffled_ssim, quality.shuffled_psnr)),
            ("labels right", f"{100 * quality.label_accuracy:.1f} %"),
            ("written", str(outcome.path)),
        ]
        console.print(facts_table("The inverter", rows))
    (errors if as_json else console).print(Text(outcome.message), soft_wrap=True)
    if outcome.status == "interrupted":
        command = shlex.join(["gradleak", *sys.argv[1:]])
        errors.print(Text(f"Nothing is lost. Go on with: {command}"), soft_wrap=True)


def _names(defenses: list[dict[str, object]]) -> str:
    return ", ".join(str(entry["name"]) for entry in defenses) or "no defense"
