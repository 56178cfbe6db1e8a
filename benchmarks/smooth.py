"""The original ReLU ResNet against its sigmoid and softplus twins: how much of DLG's success is the smooth activation?

    python benchmarks/smooth.py --data cifar10-test.tar --images 20 --seconds 15 --json smooth.json

DLG (Zhu, Liu, Han 2019, section 4.1) attacked ResNets after replacing ReLU by sigmoid and removing strides. Here each
image is attacked behind the network as it is (`relu`), behind twins with sigmoid and softplus, with strides, and
behind DLG's own change (`sigmoid-nostride`): same depth, same seed of the weights, so convolutions and classifier are
equal to the bit in all four. Untrained, BatchNorm in evaluation mode (statistics 0 and 1), one image an update,
float32, labels unknown. Image k, its network and every start follow from `--seed` + k. A replacement is a different
model: its figures say nothing about the original's.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

import gradleak as gl
from gradleak.scoring.baselines import grey, mean_color
from gradleak.scoring.scores import Scores, score_inputs
from gradleak.scoring.statistics import quantiles, wilson_interval
from gradleak.zoo.data import load
from gradleak.zoo.models import resnet

SUCCESS_DB = 20.0
TWINS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "relu": (nn.ReLU, True),
    "sigmoid": (nn.Sigmoid, True),
    "softplus": (nn.Softplus, True),
    "sigmoid-nostride": (nn.Sigmoid, False),
}
"""Activation, and whether strides stay."""


@dataclass(frozen=True)
class Row:
    """One attack, or baseline, on one image behind one twin."""

    image: int
    net: str
    attack: str
    psnr: float
    ssim: float
    correlation: float
    label_correct: bool | None
    objective: float
    status: str
    evaluations: int
    seconds: float
    message: str


def attack_named(name: str, seconds: float) -> gl.attacks.Attack:
    factory = next(factory for factory in gl.attacks.ATTACKS if factory.__name__ == name)
    return factory(max_seconds=seconds)


def rows_of(image: int, inputs: torch.Tensor, targets: torch.Tensor, arguments: argparse.Namespace) -> list[Row]:
    """All attacks behind all twins on one image."""
    seed = arguments.seed + image
    rows: list[Row] = []
    for net in arguments.nets:
        activation, strides = TWINS[net]
        model = resnet(arguments.depth, 10, activation=activation, strides=strides, seed=seed)
        task = gl.Task(model, gl.ImageSpace((3, 32, 32)), num_classes=10)
        observation, truth = gl.capture(task, inputs, targets, client=gl.clients.Gradient(mode="eval"), seed=seed)
        for name in arguments.attacks:
            result = attack_named(name, arguments.seconds)(observation, seed=seed)
            scores = gl.score(result, truth)
            found = result.objective, result.status, result.evaluations, result.seconds, result.message
            rows.append(row(image, net, name, scores, *found))
        if net == arguments.nets[0]:
            for name, guess in (("grey", grey(truth)), ("mean color", mean_color(truth))):
                rows.append(row(image, "-", name, score_inputs(guess, truth), float("nan"), "baseline", 0, 0.0, ""))
    return rows


def row(
    image: int,
    net: str,
    name: str,
    scores: Scores,
    objective: float,
    status: str,
    evaluations: int,
    seconds: float,
    message: str,
) -> Row:
    columns = scores.to_dict()
    psnr, ssim, correlation = (float(columns[key][0] or 0.0) for key in ("psnr", "ssim", "correlation"))
    correct = columns["target_correct"][0]
    label = None if correct is None else bool(correct)
    return Row(image, net, name, psnr, ssim, correlation, label, objective, status, evaluations, seconds, message)


def decibels(value: float) -> str:
    return "none" if math.isinf(value) else f"{value:.2f}"


def report(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    images = len({row.image for row in rows})
    lines = [
        f"\nResNet-{arguments.depth}, untrained, BatchNorm in eval mode, N = 1, {images} images of {arguments.data}, "
        f"seeds {arguments.seed}..{arguments.seed + images - 1}, {arguments.seconds:g} s an attack",
        f"threat model: {gl.ThreatModel().describe()}",
        f"{'net':<18}{'attack':<22}{'PSNR median (quartiles)':>26}{f'>={SUCCESS_DB:g} dB':>10}{'95 %':>14}"
        f"{'corr.':>8}{'labels':>9}{'evals':>8}{'s':>7}",
    ]
    for net, attack in dict.fromkeys((row.net, row.attack) for row in rows):
        own = [row for row in rows if (row.net, row.attack) == (net, attack)]
        # What an attack did not return counts as not reconstructed, not as missing.
        low, median, high = quantiles(
            [-math.inf if row.psnr != row.psnr else row.psnr for row in own], (0.25, 0.5, 0.75)
        ).values
        hits = sum(row.psnr >= SUCCESS_DB for row in own)
        ends = wilson_interval(hits, len(own))
        guessed = [row.label_correct for row in own if row.label_correct is not None]
        labels = f"{sum(guessed)}/{len(guessed)}" if guessed else "-"
        middle = {name: quantiles([float(getattr(row, name)) for row in own], (0.5,)).values[0] for name in COLUMNS}
        spread = f"{decibels(median)} ({decibels(low)} to {decibels(high)})"
        lines.append(
            f"{net:<18}{attack:<22}{spread:>26}{f'{hits}/{len(own)}':>10}"
            f"{f'{ends[0]:.0%}..{ends[1]:.0%}':>14}{middle['correlation']:>8.2f}{labels:>9}"
            f"{middle['evaluations']:>8.0f}{middle['seconds']:>7.1f}"
        )
    return "\n".join(lines)


COLUMNS = ("correlation", "evaluations", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15.0, help="wall time of every attack on one image")
    parser.add_argument("--depth", type=int, default=20, help="6 n + 2")
    parser.add_argument("--nets", nargs="+", choices=tuple(TWINS), default=list(TWINS))
    parser.add_argument("--attacks", nargs="+", default=["auto", "dlg"], help="names of list attacks")
    parser.add_argument("--seed", type=int, default=0, help="image k uses seed + k for network and starts")
    parser.add_argument("--json", type=Path, help="write every row here, after each image")
    arguments = parser.parse_args()
    known = [factory.__name__ for factory in gl.attacks.ATTACKS]
    if unknown := [name for name in arguments.attacks if name not in known]:
        parser.error(f"--attacks: expected names among {', '.join(known)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)

    inputs, targets = load(arguments.data).resized(32).sample(arguments.images, seed=arguments.seed)
    targets = targets % 10
    rows: list[Row] = []
    for image in range(arguments.images):
        found = rows_of(image, inputs[[image]], targets[[image]], arguments)
        rows += found
        print(f"image {image:3d}  " + "  ".join(f"{row.net} {row.attack} {row.psnr:.2f}" for row in found), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(report(rows, arguments))


if __name__ == "__main__":
    main()
