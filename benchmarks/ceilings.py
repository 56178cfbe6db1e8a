"""Attacks beside their ceilings: Cramer-Rao for the likelihood alone, van Trees for attacks that know what images are.

    python benchmarks/ceilings.py --data cifar10-test.tar --images 50 --seconds 5 --rows rows.jsonl
    python benchmarks/ceilings.py --rows rows.jsonl --report

Each random image is sent by two LeNets under normal noise of four strengths, and rebuilt by `staged`, which matches the
update by least squares from grey and never clips, and by `auto`, which knows the noise and has a prior of photographs.
Labels and defense are known to both, as they are to the bounds. The Jacobian's spectrum is computed once for an image
and a network. The van Trees ceiling of the class of `auto` is that of its own prior, photographs
(`gradleak.bounds.photograph_prior`). Beside it stand two of Gaussians that know less: smooth images, and one estimated
from the other images of the same data, where there are enough of them.

A bound is on the mean over noise (and over images, for van Trees), so the mean error over images is compared with the
mean floor, and beside that stands on how many single images a ceiling was exceeded. A least-squares search has
converged if one more Gauss-Newton step, with the Jacobian at the true image, would move it by less than a hundredth of
the Cramer-Rao floor (squared): an error short of its end by a share r of the floor can be smaller than it by twice the
root of r. One that has not is still drawn to where it began, along the very directions of which the
update says least: that is a bias, and the Cramer-Rao bound is not about it. How well the update is matched would not
tell, since these directions hardly change it. Where the floor is above the range of the inputs the bound, which is
local, says no more than that, and sigmoids saturate wherever a search goes; none counts as converged there.

Image k, its network and every start follow from `--seed` + k. Rows are appended as they are found; a second call skips
those that are there.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

import gradleak as gl
from gradleak.bounds import FisherInformation, Prior, estimated_prior, photograph_prior, smoothness_prior
from gradleak.bounds.bayesian import van_trees_at
from gradleak.bounds.gaussian_prior import FEWEST_IMAGES
from gradleak.defenses import GaussianNoise
from gradleak.scoring.statistics import bootstrap_median, wilson_interval
from gradleak.threat import Observation, simulator
from gradleak.zoo.data import load
from gradleak.zoo.data.dataset import Dataset
from gradleak.zoo.models import lenet

NETS: dict[str, Literal["uniform", "default"]] = {"wide": "uniform", "default": "default"}
"""Initialization of the LeNet with ten classes."""
STDS = (1e-4, 1e-3, 1e-2, 1e-1)
ATTACKS = ("staged", "auto")
# Most public images for the estimated prior: beyond, its covariance changes little and takes long.
PUBLIC = 10_000
# Of the Cramer-Rao floor, see above.
CONVERGED = 0.01


@dataclass(frozen=True)
class Floors:
    """Least mean squared errors at one image.

    `spread` is by what share the error of a best unbiased estimate varies with the noise.
    """

    cramer_rao: float
    spread: float
    photographs: float
    smooth: float | None
    public: float | None


@dataclass(frozen=True)
class Row:
    """One attack on one image under one noise.

    The error is that of the variable, not clipped, for `staged`, and of the decoded image for `auto`. `remaining` is
    the mean square of one more Gauss-Newton step.
    """

    net: str
    seed: int
    std: float
    attack: str
    mse: float
    remaining: float
    floors: Floors
    status: str
    message: str
    seconds: float
    seconds_allowed: float
    evaluations: int


def floors_of(information: FisherInformation, priors: dict[str, Prior], stds: Sequence[float]) -> dict[float, Floors]:
    """For some strengths of noise, from the information under noise of `STDS[0]`."""
    factors = [(STDS[0] / std) ** 2 for std in stds]
    found = {
        name: [bound.mse_floor for bound in van_trees_at([information], prior, factors, pixels=False)]
        for name, prior in priors.items()
    }
    return {
        std: Floors(
            information.mse_floor() / factor,
            float((2 / information.values.square()).sum().sqrt() / (1 / information.values).sum()),
            found["photographs"][place],
            *(found[name][place] if name in found else None for name in ("smooth", "public")),
        )
        for place, (std, factor) in enumerate(zip(stds, factors, strict=True))
    }


def remaining(observation: Observation, found: gl.Reconstruction, information: FisherInformation) -> float:
    """Mean square of a Gauss-Newton step from what was found, by the Jacobian at the truth.

    Args:
        observation: under noise of any strength.
        found: by an attack on it.
        information: under noise of `STDS[0]`.

    Returns:
        In the square of the input's unit.
    """
    simulate = simulator(observation)
    variable = found.variable.to(observation.task.dtype).detach().requires_grad_()
    sent = simulate(variable, found.target_probabilities.to(observation.task.dtype))
    rest = [(sent[name] - tensor).square().sum() for name, tensor in observation.update.tensors.items()]
    (gradient,) = torch.autograd.grad(0.5 * torch.stack(rest).sum(), variable)
    along = information.vectors.T @ gradient.flatten().to(information.vectors)
    return float((along / (information.values * STDS[0] ** 2)).square().sum()) / variable.numel()


def attack_of(name: str, seconds: float) -> gl.attacks.Attack:
    return gl.attacks.staged(max_seconds=seconds) if name == "staged" else gl.attacks.auto(max_seconds=seconds)


def rows_of(
    net: str, seed: int, data: Dataset, priors: dict[str, Prior], arguments: argparse.Namespace, done: set[Any]
) -> Iterator[Row]:
    """What is missing on one image."""
    missing = [(std, name) for std in arguments.stds for name in ATTACKS if (net, seed, std, name) not in done]
    if not missing:
        return
    inputs, targets = data.sample(1, seed=seed)
    inputs = inputs.double()
    model = lenet(
        10, data.input_shape[0], input_size=arguments.size, width=arguments.width, initialization=NETS[net], seed=seed
    )
    task = gl.Task(model.double(), space_of(data), num_classes=10)
    threat = gl.ThreatModel(labels_known=True)
    bound = gl.leakage_bound(
        task, inputs, targets, defenses=[GaussianNoise(STDS[0])], threat=threat, prior=None, keep_information=True
    )
    assert bound.information is not None
    known = {"photographs": of_photographs(data, seed), **priors}
    floors = floors_of(bound.information, known, sorted({std for std, _ in missing}))
    for std, name in missing:
        observation, _ = gl.capture(task, inputs, targets, defenses=[GaussianNoise(std)], threat=threat, seed=seed)
        found = attack_of(name, arguments.seconds)(observation, seed=seed)
        guess = found.variable if name == "staged" else found.inputs
        yield Row(
            net,
            seed,
            std,
            name,
            float((guess - inputs).square().mean()),
            remaining(observation, found, bound.information),
            floors[std],
            found.status,
            found.message[:200],
            found.seconds,
            arguments.seconds,
            found.evaluations,
        )


@lru_cache(maxsize=1)
def of_photographs(data: Dataset, seed: int) -> Prior:
    return photograph_prior(space_of(data), data.sample(1, seed=seed)[0])


def space_of(data: Dataset) -> gl.ImageSpace:
    channels, height, width = data.input_shape
    return gl.ImageSpace((channels, height, width))


def priors_of(data: Dataset, arguments: argparse.Namespace) -> dict[str, Prior]:
    """Smooth images, and what the images say that are attacked under no seed from 0 to 99 or of this call."""
    if arguments.own_prior_only:
        return {}
    found: dict[str, Prior] = {"smooth": smoothness_prior(space_of(data))}
    seeds = {*range(100), *range(arguments.seed, arguments.seed + arguments.images)}
    attacked = torch.cat([data.indices(1, seed=seed) for seed in seeds])
    others = torch.ones(len(data), dtype=torch.bool)
    others[attacked] = False
    if int(others.sum()) >= FEWEST_IMAGES:
        found["public"] = estimated_prior(data.inputs[others][:PUBLIC])
    return found


def read(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def decibels(mse: float) -> float:
    return -10 * math.log10(mse) if mse > 0 else math.inf


def mean_in_decibels(rows: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> str:
    return f"{decibels(statistics.mean(of(row) for row in rows)):.1f}"


def ceiling(rows: Sequence[dict[str, Any]], floor: str) -> str:
    if any(row["floors"][floor] is None for row in rows):
        return "-"
    return mean_in_decibels(rows, lambda row: row["floors"][floor])


def above(rows: Sequence[dict[str, Any]], floor: str) -> str:
    """On how many images an attack was closer than a floor."""
    hits = sum(row["mse"] < row["floors"][floor] for row in rows)
    low, high = wilson_interval(hits, len(rows))
    return f"{hits}/{len(rows)} ({100 * low:.0f}-{100 * high:.0f} %)" if rows else "-"


def gap(rows: Sequence[dict[str, Any]], floor: str) -> str:
    """Median over images of how far below the ceiling an attack stays."""
    if not rows:
        return "-"
    gaps = [decibels(row["floors"][floor]) - decibels(row["mse"]) for row in rows]
    found = bootstrap_median(gaps, [row["seed"] for row in rows], seed=0)
    return f"{found.median:.1f} ({found.low:.1f} to {found.high:.1f})"


def ratio(rows: Sequence[dict[str, Any]]) -> str:
    """Mean error over the mean Cramer-Rao floor, and by how much that of a best unbiased estimate strays from 1."""
    if not rows:
        return "-"
    floors = [row["floors"]["cramer_rao"] for row in rows]
    stray = math.hypot(*(row["floors"]["cramer_rao"] * row["floors"]["spread"] for row in rows)) / sum(floors)
    return f"{sum(row['mse'] for row in rows) / sum(floors):.2f} (1 ± {stray:.2f})"


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Two tables in Markdown, for each class of attackers one."""
    lines = [
        f"Threat model: {gl.ThreatModel(labels_known=True).describe()}. PSNR in dB of the mean squared error over "
        "images; gaps are medians over images with 95 % intervals.",
        "",
        "| net | noise | Cramer-Rao ceiling | staged, not clipped | converged | mean error of these / mean floor | "
        "gap of these | above the ceiling, converged | above, not converged |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    cells = [(net, std) for net in NETS for std in STDS]
    for net, std in cells:
        own = [row for row in rows if (row["net"], row["std"], row["attack"]) == (net, std, "staged")]
        if not own:
            continue
        settled = [row for row in own if row["remaining"] < CONVERGED * row["floors"]["cramer_rao"] < CONVERGED]
        lines.append(
            f"| {net} | {std:g} | {mean_in_decibels(own, lambda row: row['floors']['cramer_rao'])} | "
            f"{mean_in_decibels(own, lambda row: row['mse'])} | {len(settled)}/{len(own)} | {ratio(settled)} | "
            f"{gap(settled, 'cramer_rao')} | {above(settled, 'cramer_rao')} | "
            f"{above([row for row in own if row not in settled], 'cramer_rao')} |"
        )
    lines += [
        "",
        "| net | noise | ceiling of photographs | auto | mean error / mean floor | gap | above on images | "
        "ceiling of smooth images | ceiling of the public Gaussian |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for net, std in cells:
        own = [row for row in rows if (row["net"], row["std"], row["attack"]) == (net, std, "auto")]
        if not own:
            continue
        ceilings = {name: ceiling(own, name) for name in ("photographs", "smooth", "public")}
        error = sum(row["mse"] for row in own) / sum(row["floors"]["photographs"] for row in own)
        lines.append(
            f"| {net} | {std:g} | {ceilings['photographs']} | {mean_in_decibels(own, lambda row: row['mse'])} | "
            f"{error:.2f} | {gap(own, 'photographs')} | {above(own, 'photographs')} | "
            f"{ceilings['smooth']} | {ceilings['public']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--width", type=int, default=12, help="channels of the LeNets")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0, help="wall time of every attack")
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=list(NETS))
    parser.add_argument("--stds", nargs="+", type=float, choices=STDS, default=list(STDS))
    parser.add_argument("--seed", type=int, default=0, help="image k uses seed + k")
    parser.add_argument("--own-prior-only", action="store_true", help="leave the ceilings of other priors out")
    parser.add_argument("--rows", type=Path, help="append every row here")
    parser.add_argument("--report", action="store_true", help="print the tables of what is there, and attack nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(arguments.rows)
    if not arguments.report:
        data = load(arguments.data).resized(arguments.size)
        priors = priors_of(data, arguments)
        done = {(row["net"], row["seed"], row["std"], row["attack"]) for row in rows}
        for seed in range(arguments.seed, arguments.seed + arguments.images):
            for net in arguments.nets:
                for row in rows_of(net, seed, data, priors, arguments, done):
                    rows.append(asdict(row))
                    floor = row.floors.cramer_rao if row.attack == "staged" else row.floors.photographs
                    print(
                        f"{net:<8} {seed:4d} {row.std:g} {row.attack:<7} {decibels(row.mse):7.2f} of "
                        f"{decibels(floor):7.2f} dB, step {decibels(row.remaining):.1f} dB",
                        flush=True,
                    )
                    if arguments.rows is not None:
                        with arguments.rows.open("a") as file:
                            file.write(json.dumps(asdict(row)) + "\n")
    print(report(rows))


if __name__ == "__main__":
    main()
