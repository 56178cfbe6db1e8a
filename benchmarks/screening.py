"""Does a score from a few products rank examples as the exact floor does, and as attacks do?

    python benchmarks/screening.py --data cifar10-test.tar --images 40 --size 16 --json screening.json

One network, `--images` random images, an update of each alone. Every figure of `gl.bounds.screen` is compared, by
Spearman's rank correlation with a bootstrap interval over images, with the exact Cramer-Rao ceiling of
`gl.leakage_bound`, and with the PSNR of the most likely image (no prior) and of the most probable one (a prior of
natural images) under Gaussian noise, whose std is the median score times `--noise`. Labels are known to all. An attack
ends after 5 s.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet

NETS: dict[str, Callable[..., nn.Module]] = {
    "wide": lenet,
    "default": partial(lenet, initialization="default"),
    "softplus": partial(lenet, initialization="default", activation=nn.Softplus),
}


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation; ties are rare among real numbers and keep their order."""
    ranks = torch.stack([one.argsort().argsort().double() for one in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def interval(first: Tensor, second: Tensor, draws: int = 1000) -> tuple[float, float, float]:
    """Rank correlation and its 95 % interval over examples drawn with replacement."""
    generator = torch.Generator().manual_seed(0)
    value = spearman(first, second)
    resampled: list[float] = []
    for _ in range(draws):
        chosen = torch.randint(len(first), (len(first),), generator=generator)
        # A jitter far below any difference breaks the ties of examples that were drawn twice, at random.
        jitter = 1e-12 * torch.rand(len(first), generator=generator, dtype=torch.float64)
        resampled.append(spearman(first[chosen] * (1 + jitter), second[chosen] * (1 + jitter)))
    low, high = torch.tensor(resampled).quantile(torch.tensor([0.025, 0.975])).tolist()
    return value, low, high


def attacked(task: gl.Task, inputs: Tensor, targets: Tensor, std: float, seed: int, *, prior: bool) -> Tensor:
    """PSNR of each image, attacked on its own."""
    found: list[float] = []
    attack = gl.attacks.maximum_a_posteriori(prior=prior, max_seconds=5.0)
    for row in range(len(inputs)):
        one = slice(row, row + 1)
        observation, truth = gl.capture(
            task,
            inputs[one],
            targets[one],
            defenses=(gl.defenses.GaussianNoise(std),),
            threat=gl.ThreatModel(labels_known=True),
            seed=seed + row,
        )
        found.append(float(gl.score(attack(observation, seed=seed + row), truth).psnr[0]))
    return torch.tensor(found, dtype=torch.float64)


def of_net(name: str, inputs: Tensor, targets: Tensor, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """All comparisons behind one network."""
    size = arguments.size
    model = NETS[name](10, inputs.shape[1], input_size=size, seed=arguments.seed)
    task = gl.Task(model, gl.ImageSpace((inputs.shape[1], size, size)), num_classes=10)
    found = gl.bounds.screen(task, inputs, targets, seed=arguments.seed)
    figures = {
        "score": found.score,
        "trace": found.trace,
        "largest singular value": found.largest,
        "gradient norm": found.gradient_norm,
    }
    wanted: dict[str, Tensor] = {}
    ceilings: list[tuple[float, int, float]] = []
    for row in range(len(inputs)):
        one = slice(row, row + 1)
        bound = gl.leakage_bound(
            task, inputs[one], targets[one], defenses=(gl.defenses.GaussianNoise(1.0),), labels="known"
        )
        ceilings.append((bound.psnr_ceiling, bound.rank, float(bound.singular_values[0])))
    exact = torch.tensor([ceiling for ceiling, _, _ in ceilings], dtype=torch.float64)
    if bool(exact.isfinite().all()):
        wanted["exact ceiling"] = exact
    for factor in arguments.noise:
        std = factor * float(found.score.median())
        for prior in (False, True):
            key = f"PSNR at {factor:g} median scores, {'with' if prior else 'without'} a prior"
            wanted[key] = attacked(task, inputs, targets, std, arguments.seed, prior=prior)
    ranks = [rank for _, rank, _ in ceilings]
    print(
        f"{name}: {len(inputs)} images in {found.seconds:.1f} s, ranks {min(ranks)}..{max(ranks)} of {found.unknowns}"
    )
    rows: list[dict[str, object]] = []
    for what, values in wanted.items():
        for figure, predicted in figures.items():
            value, low, high = interval(predicted, values)
            rows.append({"net": name, "wanted": what, "figure": figure, "spearman": value, "interval": (low, high)})
            print(
                f"  {what:42} {figure:24} {value:5.2f} [{low:5.2f}, {high:5.2f}]  median {float(values.median()):.1f}"
            )
    return rows


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="name or path of the images")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--size", type=int, default=16, help="pixels per side")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--noise", nargs="*", type=float, default=[0.5], help="std in median scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    data = load(arguments.data).resized(arguments.size)
    inputs, targets = data.sample(arguments.images, seed=arguments.seed)
    rows = [row for name in arguments.nets for row in of_net(name, inputs, targets, arguments)]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
