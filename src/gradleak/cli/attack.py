"""`gradleak attack`: what an update file gives away."""

import json
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from safetensors.torch import save_file
from torch import Tensor

from gradleak.attacks import ATTACKS, Attack, learned
from gradleak.attacks.mismatch import mismatch
from gradleak.audits.pictures import encode_png, is_image
from gradleak.audits.texts import Text as Recovered
from gradleak.audits.texts import texts_of
from gradleak.cli import loading
from gradleak.cli.clients import ClientName, ClientSettings
from gradleak.cli.console import console, facts_table, number, print_json, progress_reporter
from gradleak.cli.defenses import DefenseWords
from gradleak.errors import BadInput, refuse
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import ImageSpace, InputSpace
from gradleak.threat import Observation
from gradleak.tokens import TokenSpace

# Pictures are enlarged by a whole number to about this many pixels, so that single ones of the original are visible.
_PICTURE_SIDE = 256
_STATUS_WORDS = {
    "converged": "converged: the update is reproduced",
    "budget": "budget: ended before the update was reproduced",
    "nonfinite": "nonfinite: the search diverged; the best candidate before that is kept",
    "not_applicable": "not applicable: no reconstruction",
}


def attack(
    update: loading.UpdateFile,
    model: loading.ModelName = None,
    weights: loading.WeightsFile = None,
    model_seed: loading.ModelSeed = 0,
    attack: Annotated[str, typer.Option(help="A name of list attacks.")] = "auto",
    inverter: Annotated[Path | None, typer.Option(help="Of gradleak learn, for the attack learned.")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the reconstruction and pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the attack's starts.")] = 0,
    restarts: Annotated[
        int | None, typer.Option(help="Independent starts; the attack's own number if not given.")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Wall time; the attack's own limit if not given.")] = None,
    max_evaluations: Annotated[int | None, typer.Option(help="Objective gradients, over all restarts.")] = None,
    input_shape: loading.Shape = None,
    mean: loading.Mean = None,
    std: loading.Std = None,
    num_classes: loading.Classes = None,
    kind: loading.Kind = None,
    batch_size: loading.BatchSize = None,
    labels: Annotated[str | None, typer.Option(metavar="3,5", help="Class indices that the attacker knows.")] = None,
    client: ClientName = None,
    client_set: ClientSettings = None,
    defense: DefenseWords = None,
    mode: loading.ModeName = None,
    dropout: loading.DropoutName = None,
    tokenizer: loading.Tokenizer = None,
    threads: loading.Threads = 1,
    as_json: loading.AsJson = False,
) -> None:
    """Rebuild the private batch from an update file.

    Facts that the file states hold unless an option says otherwise. A search that diverges, an attack that does not
    apply and an update of zeros are results: the exit code is 0.
    """
    chosen = _attack(attack, restarts, max_seconds, max_evaluations, inverter)
    _check_folder(out)
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
        labels=labels,
        mode=mode,
        dropout=dropout,
        client=client,
        client_settings=tuple(client_set or ()),
        defenses=tuple(defense or ()),
        tokenizer=tokenizer,
    )
    evidence, task = loading.load(words)
    observation = evidence.observation(task)
    total = None if max_evaluations is None else max(1, max_evaluations // (restarts or 1))
    with loading.torch_threads(threads), progress_reporter(attack, total) as progress:
        reconstruction = chosen(observation, seed=seed, progress=progress)
    written = [] if out is None else _write(out, reconstruction, task.space, seed)
    facts = _facts(reconstruction, observation, chosen, seed, written)
    texts = _texts(reconstruction, task.space)
    if texts is not None:
        facts |= {"texts": [text.readable for text in texts], "tokens": [list(text.ids) for text in texts]}
    if as_json:
        print_json(facts)
    else:
        _print_table(update, reconstruction, facts)


def _attack(
    name: str, restarts: int | None, max_seconds: float | None, max_evaluations: int | None, inverter: Path | None
) -> Attack:
    """The attack of this name with these limits.

    Returns:
        The attack.

    Raises:
        BadInput: when there is none, or a limit leaves no evaluation.
    """
    factory = {factory.__name__: factory for factory in ATTACKS}.get(name)
    problems: list[str] = []
    if restarts is not None and restarts < 1:
        problems.append(f"--restarts: expected at least 1, got {restarts}; give 1 or more")
    if max_seconds is not None and not max_seconds > 0:
        problems.append(f"--max-seconds: expected more than 0, got {max_seconds}; leave it out for no limit")
    if max_evaluations is not None and max_evaluations < 1:
        problems.append(f"--max-evaluations: expected at least 1, got {max_evaluations}; leave it out for no limit")
    if factory is None:
        known = ", ".join(factory.__name__ for factory in ATTACKS)
        raise BadInput([f"--attack: expected one of {known}, got {name!r}; see list attacks", *problems])
    if name == learned.__name__ and inverter is None:
        problems.append(
            "--inverter: expected a file of gradleak learn for --attack learned, got none; train one, add it"
        )
    if name != learned.__name__ and inverter is not None:
        problems.append(f"--inverter: expected --attack learned, got {name!r}; change the attack, or leave it out")
    refuse(problems)
    if inverter is not None:
        factory = partial(learned, weights=inverter)
    # Only what was said: an attack without a limit of its own and one with a default of 60 s differ here.
    match restarts, max_seconds:
        case None, None:
            return factory(max_evaluations=max_evaluations)
        case None, seconds:
            return factory(max_seconds=seconds, max_evaluations=max_evaluations)
        case starts, None:
            return factory(restarts=starts, max_evaluations=max_evaluations)
        case starts, seconds:
            return factory(restarts=starts, max_seconds=seconds, max_evaluations=max_evaluations)


def _check_folder(out: Path | None) -> None:
    """Refuse, before anything is computed, a folder that could not be written afterwards.

    Raises:
        BadInput: when it holds something, is a file, or lies where nothing may be written.
    """
    if out is None:
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        got = "a folder with content" if out.is_dir() else "a file"
        raise BadInput([f"--out {out}: expected a new or empty folder, got {got}; choose another name"])
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise BadInput(
            [f"--out {out}: expected a place to write to, got {above}, where that is refused; choose another"]
        )


def _facts(
    reconstruction: Reconstruction, observation: Observation, attack: Attack, seed: int, written: list[str]
) -> dict[str, object]:
    """The result as plain data."""
    relative = float("nan")
    if reconstruction.status != "not_applicable" and bool(reconstruction.variable.isfinite().all()):
        relative = mismatch(observation, reconstruction.variable, reconstruction.target_probabilities)
    return {
        "attack": reconstruction.attack,
        "status": reconstruction.status,
        "message": reconstruction.message,
        "objective": reconstruction.objective,
        "relative_error": relative,
        "evaluations": reconstruction.evaluations,
        "seconds": reconstruction.seconds,
        "targets": reconstruction.targets.tolist(),
        "targets_given": reconstruction.targets_given,
        "threat": observation.threat.describe(),
        "trace": list(reconstruction.trace),
        "seed": seed,
        "written": written,
    }


def _print_table(update: Path, reconstruction: Reconstruction, facts: dict[str, object]) -> None:
    nothing = reconstruction.status == "not_applicable"
    classes = reconstruction.targets.tolist() if reconstruction.targets.dim() == 1 else []
    labels = "-" if nothing or not classes else ", ".join(map(str, classes))
    texts = facts.get("texts", [])
    assert isinstance(texts, list)
    relative = facts["relative_error"]
    assert isinstance(relative, float)  # as _facts made it
    written = facts["written"]
    assert isinstance(written, list)
    rows = [
        ("status", _STATUS_WORDS[reconstruction.status]),
        ("because", reconstruction.message),
        ("objective", number(reconstruction.objective)),
        ("relative error", f"{number(relative)} (squared, of the update)"),
        ("evaluations", str(reconstruction.evaluations)),
        ("seconds", f"{reconstruction.seconds:.1f}"),
        ("labels", labels + (" (given)" if reconstruction.targets_given else " (recovered)" if labels != "-" else "")),
        *((f"text {place}", str(text) or "-") for place, text in enumerate(texts) if not nothing),
        ("tried", "\n".join(reconstruction.trace)),
        ("threat model", str(facts["threat"])),
        ("written", "\n".join(map(str, written)) if written else "nothing"),
    ]
    absent = {"relative error"} if relative != relative else set[str]()
    rows = [row for row in rows if row[0] not in absent and row[1]]
    console.print(facts_table(f"{reconstruction.attack} on {update.name}", rows))
    if nothing and "batch size" in reconstruction.message:
        console.print(Text("Say it with --batch-size, if you know it."))


def _write(out: Path, reconstruction: Reconstruction, space: InputSpace, seed: int) -> list[str]:
    """Write the folder, whole or not at all; nothing for an attack that does not apply.

    Returns:
        What was written.

    Raises:
        BadInput: when the system refuses.
    """
    if reconstruction.status == "not_applicable":
        return []
    inputs, targets = reconstruction.inputs.detach().cpu().contiguous(), reconstruction.targets.cpu().contiguous()
    facts = {"attack": reconstruction.attack, "status": reconstruction.status, "seed": seed}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            folder = Path(temporary) / "new"
            folder.mkdir()
            save_file(
                {"inputs": inputs, "targets": targets},
                folder / "reconstruction.safetensors",
                metadata={"gradleak": json.dumps(facts)},
            )
            texts = _texts(reconstruction, space)
            if texts is not None:
                (folder / "texts.txt").write_text("".join(f"{text.readable}\n" for text in texts), encoding="utf-8")
            for name, image in _pictures(inputs, targets, space).items():
                (folder / name).write_bytes(image)
            names = sorted(path.name for path in folder.iterdir())
            if out.is_symlink():
                shutil.copytree(folder, out, dirs_exist_ok=True)
            else:
                os.replace(folder, out)  # an empty folder of this name gives way
    except OSError as error:
        raise BadInput([f"--out {out}: expected a place to write to, got: {error}; choose another folder"]) from error
    return [str(out / name) for name in names]


def _texts(reconstruction: Reconstruction, space: InputSpace) -> tuple[Recovered, ...] | None:
    """Recovered texts as people read them; None for anything else."""
    return texts_of(reconstruction.inputs, space) if isinstance(space, TokenSpace) else None


def _pictures(inputs: Tensor, targets: Tensor, space: InputSpace) -> dict[str, bytes]:
    """One enlarged picture for each image of one or three channels, by file name."""
    if not isinstance(space, ImageSpace) or not is_image(inputs):
        return {}
    factor = max(1, _PICTURE_SIDE // max(space.shape[1:]))
    pictures: dict[str, bytes] = {}
    for position, (example, label) in enumerate(zip(inputs, targets.tolist(), strict=True)):
        large = example.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
        pictures[f"example-{position}-class-{label}.png"] = encode_png(large, space.bounds)
    return pictures
