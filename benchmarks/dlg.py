"""DLG as published on random CIFAR-10 test images: how often it succeeds, how often it diverges, and what it costs.

    python benchmarks/dlg.py --data cifar10-test.tar --images 20 --json dlg.json

LeNet of the released DLG code with 10 classes, weights and biases U(-0.5, 0.5), one image an update, labels
unknown, float32, 300 outer steps of L-BFGS, one random network and one start an image. `--released` runs the plain
transcription of the released loop from the same start beside it, in turn.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import gradleak as gl
from gradleak.seeds import stage_generator
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet

sys.path.insert(0, str(Path(__file__).parents[1]))  # the transcription lives with the tests
from gradleak.bench.released_dlg import released_dlg_loop


@dataclass(frozen=True)
class Row:
    """One image."""

    index: int
    psnr: float
    objective: float
    relative_objective: float
    status: str
    label_correct: bool
    evaluations: int
    seconds: float
    grey_psnr: float
    released_psnr: float | None = None
    released_seconds: float | None = None
    same_trace: int | None = None


def psnr(guess: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * torch.log10((guess.clamp(0, 1) - truth).square().mean()))


def attack_one(index: int, inputs: torch.Tensor, targets: torch.Tensor, arguments: argparse.Namespace) -> Row:
    model = lenet(10, initialization=arguments.initialization, seed=index)
    task = gl.Task(model, gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, truth = gl.capture(task, inputs, targets)
    result = gl.attacks.dlg(outer_steps=arguments.outer_steps)(observation, seed=index)
    scores = gl.score(result, truth).to_dict()
    released: dict[str, float | int] = {}
    if arguments.released:
        generator = stage_generator(index, "attack/start/0")
        start, logits = (
            torch.randn(shape, generator=generator, dtype=torch.float64).float() for shape in ((1, 3, 32, 32), (1, 10))
        )
        began = time.perf_counter()
        final, _, values = released_dlg_loop(
            model, list(observation.update.tensors.values()), start, logits, outer_steps=arguments.outer_steps
        )
        ours = result.history.objective
        same = next(
            (k for k, (a, b) in enumerate(zip(ours, values, strict=False)) if abs(a - b) > 1e-6 * abs(b)), len(ours)
        )
        released = {
            "released_psnr": psnr(final, inputs),
            "released_seconds": time.perf_counter() - began,
            "same_trace": same,
        }
    return Row(
        index=index,
        psnr=scores["psnr"][0],
        objective=result.objective,
        relative_objective=result.objective / observation.update.squared_norm(),
        status=result.status,
        label_correct=bool(scores["target_correct"][0]),
        evaluations=result.evaluations,
        seconds=result.seconds,
        grey_psnr=psnr(torch.full_like(inputs, 0.5), inputs),
        **released,  # pyright: ignore[reportArgumentType]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--outer-steps", type=int, default=300)
    parser.add_argument("--initialization", choices=("uniform", "default"), default="uniform")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of images")
    parser.add_argument("--released", action="store_true", help="run the transcription of the released loop too")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    inputs, targets = load(arguments.data).sample(arguments.images, seed=arguments.seed)
    rows: list[Row] = []
    for index in range(arguments.images):
        row = attack_one(index, inputs[index : index + 1], targets[index : index + 1], arguments)
        rows.append(row)
        print(
            f"image {index:3d}  {row.psnr:6.2f} dB  objective/|g|^2 {row.relative_objective:.1e}  {row.status:10s}  "
            f"label {'right' if row.label_correct else 'wrong'}  {row.evaluations} evaluations  {row.seconds:.1f} s"
            + (f"  released {row.released_psnr:.2f} dB {row.released_seconds:.1f} s" if row.released_psnr else ""),
            flush=True,
        )
    values = [row.psnr for row in rows]
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    print(
        f"\n{len(rows)} images of {arguments.data}, threat model: {gl.ThreatModel().describe()}\n"
        f"above 30 dB: {sum(value > 30 for value in values)}/{len(rows)}   above 20 dB: "
        f"{sum(value > 20 for value in values)}/{len(rows)}\n"
        f"PSNR median {median:.2f} dB, quartiles {low:.2f} to {high:.2f}, worst for the owner {max(values):.2f}; "
        f"grey card median {statistics.median(row.grey_psnr for row in rows):.2f}\n"
        f"diverged (nonfinite): {sum(row.status == 'nonfinite' for row in rows)}/{len(rows)}   "
        f"labels right: {sum(row.label_correct for row in rows)}/{len(rows)}\n"
        f"median {statistics.median(row.evaluations for row in rows):.0f} evaluations, "
        f"{statistics.median(row.seconds for row in rows):.1f} s"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
