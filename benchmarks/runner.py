"""What the runner costs for each trial, and what a second worker brings.

    python benchmarks/runner.py --trials 500 --long 24

First come trivial trials (a closed form on an MLP): bare, that is built, attacked and scored in a loop without
runner and store, then through `run_audit` in this process and on one loky worker. Overhead is wall time less the
seconds of the attacks, for each trial; what the bare loop has of it is capture and scoring. Then come trials of about
half a second on one loky worker and on two, and the same trials bare in one process and in two: on a busy machine two
processes may be no faster than one, and then neither are two workers. Starting the workers is reported apart.
"""

import argparse
import json
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from gradleak.audits.audit import declare
from gradleak.audits.building import build
from gradleak.audits.plan import PlannedTrial
from gradleak.audits.progress import Progress
from gradleak.audits.run import run_audit
from gradleak.audits.settings import BackendName, RunSettings
from gradleak.audits.store import Store
from gradleak.audits.trial import run_trial


def planned(trials: int, attack: dict[str, Any]) -> tuple[PlannedTrial, ...]:
    model = {"name": "mlp", "settings": {"hidden": [32]}, "redraw": False}
    return declare({"trials": trials, "model": model, "data": "digits", "attack": attack}).planned


def bare(trials: tuple[PlannedTrial, ...]) -> dict[str, float]:
    """The same trials in a loop, without runner and store."""
    build(trials[0].spec)
    began, began_process = time.perf_counter(), time.process_time()
    seconds = sum(run_trial(build(trial.spec))[0].seconds for trial in trials)
    return row(len(trials), time.perf_counter() - began, time.process_time() - began_process, seconds)


def forked(trials: tuple[PlannedTrial, ...], processes: int) -> dict[str, float]:
    """Bare loops in so many processes, each with its share of the trials."""
    run_trial(build(trials[0].spec))
    began = time.perf_counter()
    context = get_context("fork")
    shares = [context.Process(target=bare, args=(trials[first::processes],)) for first in range(processes)]
    for share in shares:
        share.start()
    for share in shares:
        share.join()
    return {"trials": len(trials), "wall_ms": 1e3 * (time.perf_counter() - began) / len(trials)}


def run(trials: tuple[PlannedTrial, ...], backend: BackendName, workers: int) -> dict[str, float]:
    """Through the runner; the clock starts with the first result, which the others are counted from."""
    clocks: list[tuple[float, float]] = []

    def notify(progress: Progress) -> None:
        if progress.record is not None:
            clocks.append((time.perf_counter(), time.process_time()))

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=".") as folder:  # a disk, where /tmp may be memory
        store = Store.open(folder)
        outcome = run_audit(trials, store, RunSettings(backend=backend, workers=workers), notify=notify)
        assert outcome.complete, outcome
        records = store.records()
    (first, first_process), (last, last_process) = clocks[0], clocks[-1]
    seconds = sum(record.seconds for record in records[1:])
    return row(len(records) - 1, last - first, last_process - first_process, seconds) | {"start_seconds": first - began}


def row(count: int, wall: float, process: float, attacks: float) -> dict[str, float]:
    """Times for each trial, in milliseconds."""
    return {
        "trials": count,
        "wall_ms": 1e3 * wall / count,
        "attack_ms": 1e3 * attacks / count,
        "overhead_ms": 1e3 * (wall - attacks) / count,
        "coordinator_process_ms": 1e3 * process / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500, help="trivial trials")
    parser.add_argument("--long", type=int, default=24, help="trials of about half a second; 0 leaves them out")
    parser.add_argument("--steps", type=int, default=80, help="optimizer calls of DLG in the long trials")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick = planned(options.trials, {"name": "linear_layer"})
    rows = {"bare": bare(quick), "inprocess": run(quick, "inprocess", 1), "loky, 1 worker": run(quick, "loky", 1)}
    if options.long:
        slow = planned(options.long, {"name": "dlg", "outer_steps": options.steps})
        for count in (1, 2):
            rows[f"long, bare, {count}"] = forked(slow, count)
            rows[f"long, loky, {count}"] = run(slow, "loky", count)
    for name, figures in rows.items():
        print(f"{name:16s} " + "  ".join(f"{key} {value:.1f}" for key, value in figures.items()))
    runner = rows["inprocess"]["overhead_ms"] - rows["bare"]["overhead_ms"]
    print(f"runner and store alone, in one process: {runner:.1f} ms for each trial")
    if options.long:
        for kind in ("bare", "loky"):
            one, two = (rows[f"long, {kind}, {count}"]["wall_ms"] for count in (1, 2))
            print(f"{kind}: two processes are {one / two:.2f} times as fast as one")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
