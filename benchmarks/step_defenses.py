"""Soteria, PRECODE and dropout: attackers who know the defense beside attackers who do not.

    python benchmarks/step_defenses.py --data cifar10-test.tar --images 20 --seconds 15 --json step-defenses.json

The LeNet of the released DLG code (sigmoid, weights U(-0.5, 0.5), 10 classes), float32, one gradient of `--batch`
images, labels unknown for one image and given for several. `adaptive` is
`auto` with everything known but the client's draws; `blind` is `auto` with the defense withheld: zeros of Soteria are
taken for gradients, PRECODE's noise for zero, and dropout (0.3 before the classifier) for none. Image k, its network
and every start follow from `--seed` + k.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.scoring.baselines import grey, mean_color
from gradleak.scoring.scores import score_inputs
from gradleak.scoring.statistics import quantiles, wilson_interval
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet
from gradleak.zoo.models.building import named_layers

SUCCESS_DB = 20.0
CAP_DB = 40.0
SETTINGS = ("none", "soteria", "precode", "dropout")


@dataclass(frozen=True)
class Row:
    """One attack, or baseline, on one image under one defense."""

    image: int
    defense: str
    attack: str
    psnr: float
    label_correct: bool | None
    objective: float
    status: str
    seconds: float
    message: str


def captures(
    defense: str, inputs: Tensor, targets: Tensor, seed: int, arguments: argparse.Namespace
) -> dict[str, tuple[gl.Observation, gl.Truth]]:
    """What the attackers hold, by their name; the client's draws are the same for both."""
    model, client, threats = lenet(10, seed=seed), gl.clients.Gradient(), {"adaptive": {}}
    defenses: list[gl.defenses.Defense] = []
    if defense == "dropout":
        *trunk, head = model.named_children()
        model, client = named_layers(*trunk, ("dropout", nn.Dropout(0.3)), head), gl.clients.Gradient(dropout="random")
        threats["blind"] = {"client_known": False}
    elif defense != "none":
        defenses.append(gl.defenses.Soteria(arguments.percent) if defense == "soteria" else gl.defenses.Precode())
        threats["blind"] = {"defense_known": False}
    task = gl.Task(model, gl.ImageSpace((3, 32, 32)), num_classes=10)
    given = {"labels_known": len(inputs) > 1}
    return {
        name: gl.capture(
            task,
            inputs,
            targets,
            client=client,
            defenses=defenses,
            threat=gl.ThreatModel(**{**given, **withheld}),
            seed=seed,
        )
        for name, withheld in threats.items()
    }


def rows_of(image: int, inputs: Tensor, targets: Tensor, arguments: argparse.Namespace) -> list[Row]:
    """Both attackers on one batch under every defense, one row for each image."""
    seed, rows = arguments.seed + image, list[Row]()
    for defense in arguments.defenses:
        for attacker, (observation, truth) in captures(defense, inputs, targets, seed, arguments).items():
            if attacker not in arguments.attackers:
                continue
            seconds = arguments.dropout_seconds if defense == "dropout" else arguments.seconds
            found = gl.attacks.auto(max_seconds=seconds)(observation, seed=seed)
            columns = gl.score(found, truth).to_dict()
            for psnr, correct in zip(columns["psnr"], columns["target_correct"], strict=True):
                label = None if correct is None else bool(correct)
                ended = found.objective, found.status, found.seconds, found.message
                rows.append(Row(image, defense, attacker, float(psnr or 0.0), label, *ended))
            if defense == arguments.defenses[0] and attacker == "adaptive":
                for name, guess in (("grey", grey(truth)), ("mean color", mean_color(truth))):
                    for psnr in score_inputs(guess, truth).to_dict()["psnr"]:
                        rows.append(Row(image, "-", name, float(psnr or 0.0), None, float("nan"), "baseline", 0.0, ""))
    return rows


def report(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    """One line for each defense and attacker."""
    batches = len({row.image for row in rows})
    lines = [
        f"\nLeNet (sigmoid, U(-0.5, 0.5)), N = {arguments.batch}, {batches} batches of {arguments.data}, seeds "
        f"{arguments.seed}..{arguments.seed + batches - 1}, {arguments.seconds:g} s an attack "
        f"(dropout: {arguments.dropout_seconds:g} s)",
        f"threat model: {gl.ThreatModel(labels_known=arguments.batch > 1).describe()}; blind: defense or dropout "
        "withheld",
        f"{'defense':<12}{'attack':<12}{'PSNR median (quartiles; least)':>38}{f'>={SUCCESS_DB:g} dB':>10}{'95 %':>14}"
        f"{'labels':>9}{'s':>7}{f'dB to none, capped at {CAP_DB:g}':>28}",
    ]
    plain = [min(row.psnr, CAP_DB) for row in rows if row.defense == "none"]
    for defense, attack in dict.fromkeys((row.defense, row.attack) for row in rows):
        own = [row for row in rows if (row.defense, row.attack) == (defense, attack)]
        psnr = [-math.inf if row.psnr != row.psnr else row.psnr for row in own]
        low, median, high = quantiles(psnr, (0.25, 0.5, 0.75)).values
        hits = sum(value >= SUCCESS_DB for value in psnr)
        ends = wilson_interval(hits, len(own))
        guessed = [row.label_correct for row in own if row.label_correct is not None]
        seconds = quantiles([row.seconds for row in own], (0.5,)).values[0]
        lost = "-"
        if plain and defense != "-":
            gaps = [before - min(after, CAP_DB) for before, after in zip(plain, psnr, strict=True)]
            within = sum(gap <= 3 for gap in gaps)
            lost = f"{quantiles(gaps, (0.5,)).values[0]:.1f}, {within}/{len(gaps)} within 3"
        lines.append(
            f"{defense:<12}{attack:<12}{f'{median:.1f} ({low:.1f} to {high:.1f}; {min(psnr):.1f})':>38}"
            f"{f'{hits}/{len(own)}':>10}{f'{ends[0]:.0%}..{ends[1]:.0%}':>14}"
            f"{f'{sum(guessed)}/{len(guessed)}' if guessed else '-':>9}{seconds:>7.1f}{lost:>28}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--images", type=int, default=20, help="batches")
    parser.add_argument("--batch", type=int, default=1, help="images of a batch")
    parser.add_argument("--seconds", type=float, default=15.0, help="wall time of every attack on one batch")
    parser.add_argument("--dropout-seconds", type=float, default=4.0, help="the same under dropout")
    parser.add_argument("--percent", type=float, default=80.0, help="columns that Soteria withholds")
    parser.add_argument("--defenses", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--attackers", nargs="+", choices=("adaptive", "blind"), default=["adaptive", "blind"])
    parser.add_argument("--first", type=int, default=0, help="batches of the same draw that are left out")
    parser.add_argument("--seed", type=int, default=0, help="batch k uses seed + k for network and starts")
    parser.add_argument("--json", type=Path, help="write every row here, after each batch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    inputs, targets = load(arguments.data).resized(32).sample(arguments.images * arguments.batch, seed=arguments.seed)
    batches = zip(inputs.split(arguments.batch), (targets % 10).split(arguments.batch), strict=True)
    rows: list[Row] = []
    for image, (some, classes) in enumerate(batches):
        if image < arguments.first:
            continue
        found = rows_of(image, some, classes, arguments)
        rows += found
        print(f"{image:3d}  " + "  ".join(f"{row.defense} {row.attack} {row.psnr:.2f}" for row in found), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(report(rows, arguments))


if __name__ == "__main__":
    main()
