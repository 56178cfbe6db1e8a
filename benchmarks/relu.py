"""ReLU networks: the attack of `attacks.relu` against Inverting Gradients on the same images, at equal seconds.

    python benchmarks/relu.py --data cifar10-test.tar --images 20 --net lenet --seconds 6 --json relu.json

One image an update, labels unknown, float32, one random network an image, one thread. For every image our attack runs
first, under `--seconds` of wall time; then the Inverting Gradients recipe gets the same seconds, its number of steps
being chosen from its own measured speed so that its schedule ends in time, once for each weight of the total
variation in `--weights` (each with the full time). Printed are its default weight (0.1), and the best of the weights
chosen image by image with the truth in hand, which is more than any attacker could do.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.recipes.inverting_gradients import inverting_gradients
from gradleak.attacks.relu import relu_inversion
from gradleak.reconstructions import Reconstruction
from gradleak.zoo.data import load
from gradleak.zoo.models import convnet, lenet

DEFAULT_WEIGHT = 0.1
PROBE = 12
"""Evaluations that tell how fast Inverting Gradients runs; not counted in its seconds."""


@dataclass(frozen=True)
class Row:
    """One image."""

    index: int
    ours: float
    ours_seconds: float
    ours_correlation: float
    plan: str
    label_correct: bool
    inverting_gradients: dict[str, float]
    inverting_gradients_seconds: dict[str, float]
    inverting_gradients_correlation: float
    grey: float
    mean_color: float


def psnr(guess: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * torch.log10((guess - truth).square().mean()))


def model_of(net: str, seed: int) -> nn.Module:
    if net == "convnet":
        return convnet(10, width=32, seed=seed)
    return lenet(10, activation=nn.ReLU, initialization="default", seed=seed)


def inverting_gradients_in(
    seconds: float, observation: gl.Observation, weight: float, speed: float, seed: int
) -> Reconstruction:
    steps = max(2, int(seconds / speed))
    attack = inverting_gradients(steps=steps, total_variation_weight=weight, max_seconds=seconds, snapshots=0)
    return attack(observation, seed=seed)


def attack_one(index: int, inputs: torch.Tensor, targets: torch.Tensor, arguments: argparse.Namespace) -> Row:
    task = gl.Task(model_of(arguments.net, arguments.seed + index), gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, truth = gl.capture(task, inputs, targets)
    ours = relu_inversion(max_seconds=arguments.seconds)(observation, seed=index)
    # Equal means equal: if ours took a moment longer than asked for, so may they.
    seconds = max(arguments.seconds, ours.seconds)
    began = time.perf_counter()
    inverting_gradients(max_evaluations=PROBE, snapshots=0)(observation, seed=index)
    speed = (time.perf_counter() - began) / PROBE
    results = {
        weight: inverting_gradients_in(seconds, observation, weight, speed, index) for weight in arguments.weights
    }
    scores = gl.score(ours, truth).to_dict()
    theirs = {weight: gl.score(result, truth).to_dict() for weight, result in results.items()}
    return Row(
        index=index,
        ours=scores["psnr"][0],
        ours_seconds=ours.seconds,
        ours_correlation=scores["correlation"][0],
        plan=ours.message,
        label_correct=bool(scores["target_correct"][0]),
        inverting_gradients={str(weight): score["psnr"][0] for weight, score in theirs.items()},
        inverting_gradients_seconds={str(weight): result.seconds for weight, result in results.items()},
        inverting_gradients_correlation=theirs[DEFAULT_WEIGHT]["correlation"][0],
        grey=psnr(torch.full_like(inputs, 0.5), inputs),
        mean_color=psnr(inputs.mean(dim=(2, 3), keepdim=True).expand_as(inputs), inputs),
    )


def report(rows: list[Row], arguments: argparse.Namespace) -> str:
    ours = [row.ours for row in rows]
    default = [row.inverting_gradients[str(DEFAULT_WEIGHT)] for row in rows]
    best = [max(row.inverting_gradients.values()) for row in rows]

    def line(name: str, values: list[float]) -> str:
        low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
        return f"{name:42s} median {median:6.2f} dB, quartiles {low:6.2f} to {high:6.2f}"

    return "\n".join(
        [
            f"\n{len(rows)} images of {arguments.data}, {arguments.net}, {arguments.seconds:g} s each, "
            f"threat model: {gl.ThreatModel().describe()}",
            line("relu_inversion", ours),
            line(f"inverting_gradients, weight {DEFAULT_WEIGHT}", default),
            line("inverting_gradients, best weight by truth", best),
            line("grey card", [row.grey for row in rows]),
            line("the image's own mean color", [row.mean_color for row in rows]),
            f"gain in the median: {statistics.median(ours) - statistics.median(default):+.2f} dB over the default, "
            f"{statistics.median(ours) - statistics.median(best):+.2f} dB over the best; images where ours is ahead "
            f"of the best: {sum(a > b for a, b in zip(ours, best, strict=True))}/{len(rows)}",
            f"down to a convex problem: {sum('convex end' in row.plan for row in rows)}/{len(rows)}; labels right: "
            f"{sum(row.label_correct for row in rows)}/{len(rows)}; seconds of ours, median "
            f"{statistics.median(row.ours_seconds for row in rows):.1f}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--net", choices=("lenet", "convnet"), default="lenet")
    parser.add_argument("--seconds", type=float, default=6.0, help="wall time of every attack on one image")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.01, 0.001])
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images and of the networks")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    if DEFAULT_WEIGHT not in arguments.weights:
        parser.error(f"--weights: expected {DEFAULT_WEIGHT}, the recipe's default, among them")
    torch.set_num_threads(1)

    data = load(arguments.data).resized(32)
    inputs, targets = data.sample(arguments.images, seed=arguments.seed)
    rows: list[Row] = []
    for index in range(arguments.images):
        row = attack_one(index, inputs[index : index + 1], targets[index : index + 1], arguments)
        rows.append(row)
        weights = "  ".join(f"{weight}: {value:.2f}" for weight, value in row.inverting_gradients.items())
        kind = "convex" if "convex end" in row.plan else row.plan.split(":")[0]
        print(
            f"image {index:3d}  ours {row.ours:6.2f} dB in {row.ours_seconds:.1f} s ({kind})  "
            f"inverting_gradients {weights}",
            flush=True,
        )
    print(report(rows, arguments))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
