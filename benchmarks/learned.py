"""The learned attack beside optimization and beside answers that need no update, behind defenses.

    python benchmarks/learned.py --data cifar10-train.tar --test cifar10-test.tar --flip --out inverters

For each defense an inverter is trained on `--data` for the LeNet of the DLG paper (sigmoid, U(-0.5, 0.5), one image an
update, labels unknown), and asked for the updates of `--images` images of `--test` drawn at random, which it has not
seen. Beside it stand the mean training image, the inverter's answers to other images' updates, and, on the first
`--searched` of the same images, optimization: Inverting Gradients and `auto`, each `--seconds` an image, by an attacker
who does not know the defense (blind) and by one who does (adaptive). The same command goes on where it was stopped.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.protocol import Attack
from gradleak.audits.by_name.defenses import defense_named
from gradleak.defenses import Defense
from gradleak.learning import LearnSettings, learn
from gradleak.learning.pairs import with_mirrored
from gradleak.scoring import peak_signal_noise_ratio, structural_similarity
from gradleak.zoo.data import Dataset, load
from gradleak.zoo.models import lenet

DEFENSES: dict[str, tuple[tuple[str, dict[str, object]], ...]] = {
    "none": (),
    "sign": (("Sign", {}),),
    "pruned": (("TopK", {"keep": 0.01}),),
    "noise": (("GaussianNoise", {"std": 0.1}),),
}


def scores(guess: Tensor, truth: Tensor) -> dict[str, list[float]]:
    return {
        "ssim": structural_similarity(guess, truth, data_range=1.0).tolist(),
        "psnr": peak_signal_noise_ratio(guess, truth, data_range=1.0).tolist(),
    }


def attacked(
    attack: Attack, task: gl.Task, chosen: Dataset, defenses: Sequence[Defense], *, known: bool
) -> dict[str, Any]:
    """One attack on each image alone; a reconstruction that does not apply counts as grey, and is counted."""
    answers: list[Tensor] = []
    seconds, grey = 0.0, 0
    for position in range(len(chosen)):
        one = slice(position, position + 1)
        observation, _ = gl.capture(
            task,
            chosen.inputs[one],
            chosen.targets[one],
            defenses=defenses,
            threat=gl.ThreatModel(defense_known=known),
            seed=position,
        )
        found = attack(observation, seed=position)
        seconds += found.seconds
        usable = bool(found.inputs.isfinite().all())
        grey += not usable
        answers.append(found.inputs if usable else torch.full_like(chosen.inputs[one], 0.5))
    guess = torch.cat(answers).float()
    return {**scores(guess, chosen.inputs), "seconds": seconds / len(chosen), "not_applicable": grey}


def rows_for(name: str, arguments: argparse.Namespace, data: Dataset, test: Dataset) -> list[dict[str, Any]]:
    channels, side, _ = data.input_shape
    model = lenet(data.num_classes, channels, input_size=side, seed=arguments.model_seed)
    task = gl.Task(model, gl.ImageSpace((channels, side, side)), data.num_classes)
    defenses = [defense_named(arguments.plugin.get(kind, kind), settings) for kind, settings in DEFENSES[name]]
    settings = LearnSettings(
        epochs=arguments.epochs,
        max_minutes=arguments.minutes,
        hidden=tuple(arguments.hidden),
        dropout=arguments.dropout,
        flip=arguments.flip,
        seed=arguments.seed,
    )

    def show(progress: Any) -> None:
        if progress.quality is not None:
            print(f"{name}: step {progress.step}, {progress.quality}", file=sys.stderr, flush=True)

    chosen = test.subset(test.indices(arguments.images, seed=arguments.seed))
    few = chosen.subset(torch.arange(min(arguments.searched, len(chosen))))
    rest = torch.tensor(sorted(set(range(len(test))) - set(test.indices(arguments.images, arguments.seed).tolist())))
    # What is shown while training is measured on images that the final figures are not from.
    outcome = learn(
        task,
        data,
        arguments.out / name,
        client=gl.clients.Gradient(),
        defenses=defenses,
        test=test.subset(rest) if len(rest) else test,
        settings=settings,
        model="lenet",
        notify=show,
    )
    if outcome.status != "finished":
        raise SystemExit(outcome.message)
    inverter = gl.attacks.learned(weights=outcome.path)
    mean = (with_mirrored(data.inputs, data.targets)[0] if arguments.flip else data.inputs).mean(dim=0)
    shuffled = chosen.subset(torch.arange(len(chosen)).roll(1))

    def row(attack: str, threat: str, result: dict[str, Any]) -> dict[str, Any]:
        return {"defense": name, "attack": attack, "threat": threat, "steps": outcome.facts.steps, **result}

    answers = attacked(inverter, task, chosen, defenses, known=True)
    rows = [
        row("mean image", "-", scores(mean.expand_as(chosen.inputs), chosen.inputs)),
        row("learned", "adaptive", answers),
        row("learned, update of another image", "-", shuffled_scores(inverter, task, chosen, shuffled, defenses)),
        row("learned, first images", "adaptive", attacked(inverter, task, few, defenses, known=True)),
    ]
    for attack in arguments.attacks:
        made: Attack = (
            gl.attacks.auto(max_seconds=arguments.seconds)
            if attack == "auto"
            else gl.attacks.inverting_gradients(max_seconds=arguments.seconds, steps=arguments.steps, snapshots=0)
        )
        for known in (False, True) if defenses else (True,):
            result = attacked(made, task, few, defenses, known=known)
            rows.append(row(attack, "adaptive" if known else "blind", result))
    return rows


def shuffled_scores(
    attack: Attack, task: gl.Task, chosen: Dataset, shuffled: Dataset, defenses: Sequence[Defense]
) -> dict[str, Any]:
    """Answers to other images' updates, scored against the images in their own places."""
    guesses = [
        attack(
            gl.capture(task, shuffled.inputs[at : at + 1], shuffled.targets[at : at + 1], defenses=defenses)[0]
        ).inputs
        for at in range(len(chosen))
    ]
    return scores(torch.cat(guesses).float(), chosen.inputs)


def printed(row: dict[str, Any]) -> str:
    ssim, psnr = row["ssim"], row["psnr"]
    seconds = f"{row['seconds']:6.2f} s" if "seconds" in row else ""
    lost = f", {row['not_applicable']} not applicable" if row.get("not_applicable") else ""
    return (
        f"{row['defense']:8} {row['attack']:34} {row['threat']:9} SSIM {statistics.fmean(ssim):6.3f}  "
        f"PSNR {statistics.fmean(psnr):6.2f} dB  above 0.3: {sum(v > 0.3 for v in ssim):3} of {len(ssim):3}  "
        f"{seconds}{lost}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs")
    parser.add_argument("--test", help="default: a tenth of the data")
    parser.add_argument("--size", type=int)
    parser.add_argument("--defenses", nargs="*", default=["sign", "pruned"], choices=list(DEFENSES))
    parser.add_argument("--attacks", nargs="*", default=["inverting_gradients", "auto"])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--searched", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=1000, help="of inverting_gradients")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--hidden", type=int, nargs="+", default=[1000])
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--model-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for inverters")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--plugin", nargs="*", default=[], metavar="Name=package.module:Class", help="a defense from elsewhere"
    )
    arguments = parser.parse_args()
    arguments.plugin = dict(pair.split("=", 1) for pair in arguments.plugin)
    torch.set_num_threads(1)
    data = load(arguments.data, size=arguments.size)
    if arguments.test:
        test = load(arguments.test, size=arguments.size)
    else:
        test, data = data.split(max(1, len(data) // 10), arguments.seed)
    rows: list[dict[str, Any]] = []
    for name in arguments.defenses:
        found = rows_for(name, arguments, data, test)
        for row in found:
            print(printed(row), flush=True)
        rows += found
        if arguments.json:
            arguments.json.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
