"""Trained ResNets with BatchNorm: evaluation mode, training mode, and training mode with sent running statistics.

    python benchmarks/batch_norm.py --data cifar10-test.tar --weights cifar10-resnet20.safetensors --json rows.json

Random images, labels unknown, float32, one thread. Single images are attacked by `residual_peeling`, batches by
`batch_norm_inversion` with the statistics that the mode leaves: running ones as a proxy, or those inferred from the
sent buffers. Every attack gets `--seconds` of wall time. Beside it stand a grey card and each image's own mean color,
which need no attack. Without `--weights` the network is untrained.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import gradleak as gl
from gradleak.attacks.protocol import Attack
from gradleak.scoring.baselines import grey, mean_color
from gradleak.scoring.scores import Scores, score_inputs
from gradleak.scoring.statistics import quantiles, wilson_interval
from gradleak.zoo.data import load
from gradleak.zoo.models import load_weights, resnet

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MODES = {
    "evaluation": gl.clients.Gradient(mode="eval"),
    "training": gl.clients.Gradient(mode="train"),
    "training, statistics sent": gl.clients.Gradient(mode="train", send_buffers=True),
}
SUCCESS = 20.0


@dataclass(frozen=True)
class Row:
    """One image of one batch, by one attack or baseline."""

    batch: int
    mode: str
    attack: str
    psnr: float | None
    correlation: float | None
    label_correct: bool | None
    seconds: float
    evaluations: int
    message: str


def task_of(arguments: argparse.Namespace) -> gl.Task:
    model = resnet(arguments.depth, 10, seed=arguments.seed)
    if arguments.weights is None:
        return gl.Task(model, gl.ImageSpace((3, 32, 32)), num_classes=10)
    return gl.Task(load_weights(model, arguments.weights), gl.ImageSpace((3, 32, 32), *IMAGENET), num_classes=10)


def attack_of(mode: str, count: int, seconds: float) -> Attack:
    if count == 1:
        return gl.attacks.residual_peeling(max_seconds=seconds)
    policy = "inferred" if mode.endswith("sent") else "running"
    return gl.attacks.batch_norm_inversion(policy=policy, max_seconds=seconds)


def finite(value: float | None) -> float | None:
    """Of an attack that did not apply there is no image and no score."""
    return None if value is None or not math.isfinite(value) else value


def rows_of(batch: int, mode: str, name: str, scores: Scores, result: gl.Reconstruction | None) -> list[Row]:
    table = scores.to_dict()
    labels = table["target_correct"] if result is not None else [None] * len(table["psnr"])
    cost = (0.0, 0, "") if result is None else (result.seconds, result.evaluations, result.message)
    return [
        Row(batch, mode, name, finite(psnr), finite(correlation), None if label is None else bool(label), *cost)
        for psnr, correlation, label in zip(table["psnr"], table["correlation"], labels, strict=True)
    ]


def line(name: str, rows: list[Row]) -> str:
    values = [row.psnr or 0.0 for row in rows]
    low, median, high = quantiles(values, (0.25, 0.5, 0.75)).values
    reached = sum(value > SUCCESS for value in values)
    ends = wilson_interval(reached, len(rows))
    known = [row.correlation for row in rows if row.correlation is not None]
    correlation = f"{quantiles(known, (0.5,)).values[0]:6.2f}" if known else "  none"
    labels = [row.label_correct for row in rows if row.label_correct is not None]
    right = f"{sum(labels)}/{len(labels)}" if labels else ""
    seconds = quantiles([row.seconds for row in rows], (0.5,)).values[0]
    return (
        f"{name:<44}{median:7.1f} ({low:5.1f} to {high:5.1f}){max(values):7.1f}{correlation:>8}"
        f"   {reached:3d}/{len(rows)} ({ends[0]:.0%} to {ends[1]:.0%}){right:>8}{seconds:7.1f}"
    )


def report(rows: list[Row], arguments: argparse.Namespace) -> str:
    state = "trained" if arguments.weights else "untrained"
    lines = [
        f"\nResNet-{arguments.depth}, {state}, {arguments.batches} random batches of "
        f" {arguments.batch_size} from {arguments.data} (seeds {arguments.seed} on), {arguments.seconds:g} s each; "
        f"threat model: {gl.ThreatModel().describe()}",
        f"{'':<44}{'PSNR, median (quartiles), worst case':>36}{'corr.':>5}{f'   above {SUCCESS:g} dB (95 %)':>20}"
        f"{'labels':>8}{'s':>6}",
    ]
    for mode in MODES:
        for name in dict.fromkeys(row.attack for row in rows if row.mode == mode):
            lines.append(line(f"{mode}: {name}", [row for row in rows if row.mode == mode and row.attack == name]))
    lines += [line(name, [row for row in rows if row.attack == name]) for name in ("grey", "mean color")]
    policies = {mode: next((row.message for row in rows if row.mode == mode), "") for mode in MODES}
    return "\n".join([*lines, *(f"{mode}: {message}" for mode, message in policies.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--weights", type=Path, help="trained weights of the zoo's ResNet; untrained without")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=25.0, help="wall time of an attack on one batch")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch, and of an untrained network")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    task, data = task_of(arguments), load(arguments.data).resized(32)
    rows: list[Row] = []
    for batch in range(arguments.batches):
        inputs, targets = data.sample(arguments.batch_size, seed=arguments.seed + batch)
        for mode, client in MODES.items():
            observation, truth = gl.capture(task, inputs, targets % 10, client=client)
            result = attack_of(mode, arguments.batch_size, arguments.seconds)(observation, seed=arguments.seed + batch)
            found = rows_of(batch, mode, result.attack, gl.score(result, truth), result)
            rows += found
            print(f"batch {batch:3d}  {mode:<26}" + " ".join(f"{row.psnr or 0.0:6.1f} dB" for row in found), flush=True)
        _, truth = gl.capture(task, inputs, targets % 10)
        for name, guess in (("grey", grey), ("mean color", mean_color)):
            rows += rows_of(batch, "any", name, score_inputs(guess(truth), truth), None)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(report(rows, arguments))


if __name__ == "__main__":
    main()
