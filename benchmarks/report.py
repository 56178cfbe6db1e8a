"""How long the report of a large audit takes, how much memory, and how large the page is.

    python benchmarks/report.py --trials 10000 --folder DIR

Writes so many trials of real shape (32 x 32 color images, two attacks, four batch sizes), then runs `gradleak report`
on them in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from gradleak.audits.records import Columns, Course, TrialRecord, record_id
from gradleak.audits.store import Store
from gradleak.audits.trial import POINTS, TrialImages

SIZES = (1, 2, 4, 8)
ATTACKS = ("auto", "dlg")


def trial(number: int, generator: torch.Generator) -> tuple[TrialRecord, TrialImages]:
    attack = ATTACKS[number % 2]
    batch = number // 2
    size = SIZES[batch % len(SIZES)]
    psnr = (torch.randn(size, generator=generator) * 6 + 28 - 2 * size).tolist()
    spec = {
        "model": {"name": "lenet", "settings": {}, "seed": batch},
        "space": {"name": "ImageSpace", "shape": [3, 32, 32], "bounds": [0.0, 1.0]},
        "num_classes": 10,
        "data": {"name": "photographs", "size": 32},
        "examples": list(range(batch, batch + size)),
        "targets": [0] * size,
        "client": {"name": "Gradient", "mode": "eval"},
        "defenses": [],
        "threat": {"labels_known": False, "batch_size_known": True, "client_known": True, "defense_known": True},
        "attack": {"name": attack},
        "seed": batch,
        "batch": batch,
    }

    def columns(values: list[float]) -> Columns:
        return {"psnr": tuple(values), "ssim": tuple([0.5] * size), "correlation": tuple([0.4] * size)}

    record = TrialRecord(
        id=record_id(spec),
        status="converged",
        spec=spec,
        threat="given: batch size, client, defense; withheld: labels",
        scores=columns(psnr),
        targets_given=False,
        baselines={name: columns([12.0] * size) for name in ("grey", "mean_color", "dataset_mean", "random_other")},
        objective=1e-6,
        evaluations=POINTS,
        seconds=1.0,
        step_seconds=1e-3,
        course=Course(
            evaluations=tuple(range(1, POINTS + 1)),
            objective=tuple(1.0 / point for point in range(1, POINTS + 1)),
            snapshot_evaluations=tuple(range(1, 25)),
            psnr=tuple(tuple(psnr) for _ in range(24)),
        ),
        environment={"torch": torch.__version__},
    )
    truth = torch.rand((size, 3, 32, 32), generator=generator)
    return record, TrialImages(truth, truth + 0.01, truth.repeat(24, 1, 1, 1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    store = Store.open(arguments.folder)
    generator = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    for number in range(arguments.trials):
        store.append(*trial(number, generator))
    print(f"{arguments.trials} trials stored in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gradleak", "report", str(arguments.folder)], check=True)
    rows = {
        "trials": arguments.trials,
        "seconds": time.perf_counter() - began,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "html_megabytes": (arguments.folder / "report.html").stat().st_size / 2**20,
    }
    print(", ".join(f"{name} {value:.2f}" for name, value in rows.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
