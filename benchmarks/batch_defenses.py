"""MixUp, InstaHide and augmentation policies against attackers who know them, and attackers who do not.

    python benchmarks/batch_defenses.py --data cifar10-test.tar --defense mixup --batch-size 2 --batches 20 --seconds 10

The LeNet of DLG (sigmoid, U(-0.5, 0.5)), float32, labels unknown, one gradient of one batch. Batch k, its network, the
defense's randomness and every start follow from `--seed` + k; classes may repeat. Both attackers run `auto` on the
same observation for the same seconds; `none` is the undefended batch, and `mixed` what a perfect attack on the update
alone would show: the batch that the client trained on.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import gradleak as gl
from gradleak.defenses.applying import changed_batch
from gradleak.scoring.baselines import grey
from gradleak.scoring.scores import Scores, score_inputs
from gradleak.scoring.statistics import quantiles, wilson_interval
from gradleak.seeds import stage_generator
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet

SUCCESS_DB = 20.0
UNCHANGED_DB = 100.0


@dataclass(frozen=True)
class Row:
    """One attacker on one batch."""

    batch: int
    attacker: str
    psnr: list[float]
    ssim: list[float]
    labels_right: float | None
    objective: float
    seconds: float
    status: str
    message: str


def defense_of(arguments: argparse.Namespace) -> gl.defenses.Defense:
    makers: dict[str, Callable[[], gl.defenses.Defense]] = {
        "mixup": lambda: gl.defenses.MixUp(alpha=arguments.alpha),
        "instahide": lambda: gl.defenses.InstaHide(k=arguments.k),
        "augment": lambda: gl.defenses.Augment(policy=arguments.policy),
    }
    return makers[arguments.defense]()


def rows_of(batch: int, inputs: Tensor, targets: Tensor, arguments: argparse.Namespace) -> list[Row]:
    """Every attacker, and what can be said without any, on one batch."""
    seed, defense = arguments.seed + batch, defense_of(arguments)
    space = gl.ImageSpace((3, 32, 32), mean=(arguments.mean,), std=(arguments.std,))
    task = gl.Task(lenet(10, seed=seed), space, num_classes=10)
    rows: list[Row] = []
    attack = gl.attacks.auto(max_seconds=arguments.seconds)
    observation, truth = gl.capture(task, inputs, targets, defenses=[defense], seed=seed)
    undefended, _ = gl.capture(task, inputs, targets, seed=seed)
    blind = replace(observation, defenses=None, threat=gl.ThreatModel(defense_known=False))
    for name, seen in (("adaptive", observation), ("blind", blind), ("none", undefended)):
        if name in arguments.attackers:
            result = attack(seen, seed=seed)
            scores = gl.score(result, truth)
            found = result.objective, result.seconds, result.status, result.message
            rows.append(row(batch, name, scores, *found))
    probabilities = task.target_probabilities(targets)
    shown, _ = changed_batch([defense], task.encode(inputs), probabilities, space, seed)
    for name, guess in (("mixed", space.decode(shown)), ("grey", grey(truth))):
        rows.append(row(batch, name, score_inputs(guess, truth), math.nan, 0.0, "baseline", ""))
    return rows


def row(batch: int, name: str, scores: Scores, objective: float, seconds: float, status: str, message: str) -> Row:
    known = [correct for correct in scores.target_correct if correct is not None]
    labels = sum(known) / len(known) if known else None
    return Row(batch, name, scores.psnr.tolist(), scores.ssim.tolist(), labels, objective, seconds, status, message)


def report(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    batches = len({row.batch for row in rows})
    lines = [
        f"\n{defense_of(arguments)}: LeNet, N = {arguments.batch_size}, {batches} batches of {arguments.data}, seeds "
        f"{arguments.seed}..{arguments.seed + batches - 1}, {arguments.seconds:g} s an attack",
        f"threat model: {gl.ThreatModel().describe()}; blind: defense withheld",
        f"{'attacker':<10}{'PSNR median (quartiles)':>28}{f'>={SUCCESS_DB:g} dB':>10}{'95 %':>12}"
        f"{'SSIM':>7}{'labels':>8}{'s':>7}",
    ]
    changed = {row.batch for row in rows if row.attacker == "mixed" and min(row.psnr) < UNCHANGED_DB}
    if len(changed) < batches:
        lines.insert(1, f"of which the defense changed {len(changed)}; the others are left out below")
    for name in dict.fromkeys(row.attacker for row in rows):
        own = [row for row in rows if row.attacker == name and row.batch in changed]
        if not own:
            continue
        # What an attack did not return counts as not reconstructed, not as missing.
        psnr = [-math.inf if value != value else value for row in own for value in row.psnr]
        low, median, high = quantiles(psnr, (0.25, 0.5, 0.75)).values
        hits = sum(value >= SUCCESS_DB for value in psnr)
        ends = wilson_interval(hits, len(psnr))
        ssim = quantiles([value for row in own for value in row.ssim], (0.5,)).values[0]
        right = [row.labels_right for row in own if row.labels_right is not None]
        labels = f"{sum(right) / len(right):.0%}" if right else "-"
        seconds = quantiles([row.seconds for row in own], (0.5,)).values[0]
        lines.append(
            f"{name:<10}{f'{median:.1f} ({low:.1f} to {high:.1f})':>28}{f'{hits}/{len(psnr)}':>10}"
            f"{f'{ends[0]:.0%}..{ends[1]:.0%}':>12}{ssim:>7.2f}{labels:>8}{seconds:>7.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--defense", choices=("mixup", "instahide", "augment"), default="mixup")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--alpha", type=float, default=1.0, help="of MixUp")
    parser.add_argument("--k", type=int, default=4, help="of InstaHide")
    parser.add_argument("--policy", default="3-1-7+43-18-18", help="of the augmentation")
    parser.add_argument("--mean", type=float, default=0.0, help="subtracted from pixels before the model")
    parser.add_argument("--std", type=float, default=1.0, help="divided by after that")
    parser.add_argument("--seconds", type=float, default=10.0, help="wall time of every attack on one batch")
    parser.add_argument("--attackers", nargs="+", choices=("adaptive", "blind", "none"), default=["adaptive", "blind"])
    parser.add_argument("--seed", type=int, default=0, help="batch k uses seed + k for everything")
    parser.add_argument("--json", type=Path, help="write every row here, after each batch")
    arguments = parser.parse_args()
    data = load(arguments.data, size=32)
    rows: list[Row] = []
    for batch in range(arguments.batches):
        generator = stage_generator(arguments.seed + batch, "batch")
        chosen = torch.randperm(len(data.inputs), generator=generator)[: arguments.batch_size]
        rows += rows_of(batch, data.inputs[chosen], data.targets[chosen] % 10, arguments)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        shown = [f"{r.attacker} {', '.join(f'{value:.1f}' for value in r.psnr)}" for r in rows if r.batch == batch]
        print(f"batch {batch}: " + "; ".join(shown), flush=True)
    print(report(rows, arguments))


if __name__ == "__main__":
    main()
