"""Trained ResNet-20, one image an update: what leaks, on images of every gradient norm, at equal seconds.

    python benchmarks/resnet20.py --data cifar10-test.tar --weights cifar10-resnet20.safetensors --json rows.json

BatchNorm in evaluation mode, ReLU, float32, labels unknown, one thread. A confident network leaves small gradients,
so images are stratified: of `--pool` random ones, sorted by the norm of their gradient, one is drawn from each of
`--images` equal bins. On each of them every attack gets `--seconds` of wall time; the Inverting Gradients recipe gets
as many steps as its own measured speed allows, so that its schedule ends in time. Beside the attacks stand a grey card
and the image's own mean color, which need no attack. Without `--weights` the network is untrained, another one for
each image.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.protocol import Attack
from gradleak.attacks.relu import relu_inversion
from gradleak.scoring.baselines import grey, mean_color
from gradleak.scoring.scores import Scores, score_inputs
from gradleak.scoring.statistics import bootstrap_median, quantiles
from gradleak.zoo.data import load
from gradleak.zoo.models import load_weights, resnet20

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WEIGHTS_OF_VARIATION = (0.1, 0.01)
PROBE = 6
"""Evaluations that tell how fast Inverting Gradients runs; not counted in its seconds."""
COLUMNS = ("psnr", "correlation", "ssim")


@dataclass(frozen=True)
class Row:
    """One attack, or one baseline, on one image."""

    image: int
    attack: str
    gradient_norm: float
    label_correct: bool | None
    psnr: float
    correlation: float
    ssim: float
    seconds: float
    evaluations: int
    message: str


def task_of(weights: Path | None, seed: int) -> gl.Task:
    if weights is None:
        return gl.Task(resnet20(10, seed=seed), gl.ImageSpace((3, 32, 32)), num_classes=10)
    return gl.Task(load_weights(resnet20(10), weights), gl.ImageSpace((3, 32, 32), *IMAGENET), num_classes=10)


def gradient_norm(observation: gl.Observation) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in observation.update.tensors.values()))


def stratified(inputs: Tensor, targets: Tensor, arguments: argparse.Namespace) -> list[int]:
    """One image of each bin of gradient norms, by their place in the pool."""
    task = task_of(arguments.weights, arguments.seed)
    norms = [gradient_norm(gl.capture(task, inputs[[i]], targets[[i]])[0]) for i in range(len(inputs))]
    order = sorted(range(len(norms)), key=norms.__getitem__)
    generator = torch.Generator().manual_seed(arguments.seed)
    ends = [round(len(order) * place / arguments.images) for place in range(arguments.images + 1)]
    bins = [order[low:high] for low, high in zip(ends[:-1], ends[1:], strict=True)]
    return [one[int(torch.randint(len(one), (1,), generator=generator))] for one in bins]


def inverting_gradients_in(seconds: float, observation: gl.Observation, weight: float) -> Attack:
    began = time.perf_counter()
    gl.attacks.inverting_gradients(max_evaluations=PROBE, snapshots=0)(observation)
    steps = max(2, int(seconds * PROBE / (time.perf_counter() - began)))
    return gl.attacks.inverting_gradients(steps=steps, total_variation_weight=weight, max_seconds=seconds, snapshots=0)


def attacks(seconds: float, observation: gl.Observation) -> dict[str, Callable[[], Attack]]:
    recipes = {
        f"inverting_gradients {weight:g}": lambda weight=weight: inverting_gradients_in(seconds, observation, weight)
        for weight in WEIGHTS_OF_VARIATION
    }
    return {
        **recipes,
        "relu_inversion": lambda: relu_inversion(max_seconds=seconds),
        "auto": lambda: gl.attacks.auto(max_seconds=seconds),
    }


def numbers(scores: Scores) -> dict[str, float]:
    table = scores.to_dict()
    return {name: float(table[name][0] or 0.0) for name in COLUMNS}


def attack_one(image: int, inputs: Tensor, targets: Tensor, arguments: argparse.Namespace) -> list[Row]:
    observation, truth = gl.capture(task_of(arguments.weights, arguments.seed + image), inputs, targets)
    norm = gradient_norm(observation)
    rows = [
        Row(image, name, norm, None, **numbers(score_inputs(guess(truth), truth)), seconds=0, evaluations=0, message="")
        for name, guess in (("grey", grey), ("mean color", mean_color))
    ]
    for name, make in attacks(arguments.seconds, observation).items():
        result = make()(observation, seed=image)
        scores = gl.score(result, truth)
        message = " | ".join(result.trace) or result.message
        rows.append(
            Row(
                image,
                name,
                norm,
                bool(scores.to_dict()["target_correct"][0]),
                **numbers(scores),
                seconds=result.seconds,
                evaluations=result.evaluations,
                message=message,
            )
        )
    return rows


def column(rows: list[Row], attack: str, name: str) -> list[float]:
    return [getattr(row, name) for row in rows if row.attack == attack]


def versus(rows: list[Row], one: str, other: str, name: str) -> str:
    """Paired differences: their median with its bootstrap interval, and the sign test."""
    from scipy.stats import binomtest  # slow to import

    gaps = [a - b for a, b in zip(column(rows, one, name), column(rows, other, name), strict=True)]
    median = bootstrap_median(gaps, range(len(gaps)), seed=0)
    wins, losses = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    chance = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return (
        f"{one} - {other}, {name}: median {median.median:+.2f} (95 %: {median.low:+.2f} to {median.high:+.2f}), "
        f"ahead on {wins} of {len(gaps)}, sign test p = {chance:.1g}"
    )


def report(rows: list[Row], arguments: argparse.Namespace) -> str:
    names = list(dict.fromkeys(row.attack for row in rows))
    images = len({row.image for row in rows})
    lines = [
        f"\n{images} images of {arguments.data}, {'trained' if arguments.weights else 'untrained'} ResNet-20, "
        f"{arguments.seconds:g} s each; threat model: {gl.ThreatModel().describe()}",
        f"{'':<26}{'PSNR, dB':>26}{'correlation':>26}{'SSIM':>26}{'seconds':>9}",
    ]
    for name in names:
        cells = ""
        for score in COLUMNS:
            low, median, high = quantiles(column(rows, name, score), (0.25, 0.5, 0.75)).values
            cells += f"{median:10.2f} ({low:5.2f} to {high:5.2f})"
        seconds = quantiles(column(rows, name, "seconds"), (0.5,)).values[0]
        lines.append(f"{name:<26}{cells}{seconds:9.1f}")
    others = [name for name in names if name.startswith("inverting") or name in {"mean color", "relu_inversion"}]
    lines += [versus(rows, "auto", other, score) for other in others for score in ("psnr", "correlation")]
    right = sum(bool(row.label_correct) for row in rows if row.attack == "auto")
    lines.append(f"labels right: {right} of {images}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--weights", type=Path, help="trained weights of the zoo's resnet20; untrained without")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--pool", type=int, default=200, help="random images among which the bins are made")
    parser.add_argument("--seconds", type=float, default=25.0, help="wall time of every attack on one image")
    parser.add_argument("--seed", type=int, default=0, help="of the pool, the draws and the untrained networks")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    if not 1 <= arguments.images <= arguments.pool:
        parser.error(f"--images: expected 1 to --pool ({arguments.pool}), got {arguments.images}")
    torch.set_num_threads(1)

    inputs, targets = load(arguments.data).resized(32).sample(arguments.pool, seed=arguments.seed)
    targets = targets % 10
    rows: list[Row] = []
    for image, place in enumerate(stratified(inputs, targets, arguments)):
        found = attack_one(image, inputs[[place]], targets[[place]], arguments)
        rows += found
        cells = "  ".join(f"{row.attack} {row.psnr:.2f} dB / {row.correlation:.2f}" for row in found)
        print(f"image {image:3d}  norm {found[0].gradient_norm:.1e}  {cells}", flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(report(rows, arguments))


if __name__ == "__main__":
    main()
