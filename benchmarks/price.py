"""What a defense costs in test accuracy: the same training with each defense in the loop, over several seeds.

    python benchmarks/price.py --train cifar10-train.tar --test cifar10-test.tar --out price.jsonl --seeds 0 1 2
    python benchmarks/price.py --out price.jsonl --summary          # the table again, nothing is trained
    python benchmarks/price.py --list                               # names, changes of the spec, nothing is trained

Every entry is the shipped training `dlg-defenses` with the changes that `--list` shows; noise is added to the averaged
gradient of each step. All of one seed come before the next seed. Each result is a line of JSON as soon as it is there;
what a file holds is not trained again, so the same command goes on after an interrupt. Checkpoints stay with
`--models DIR`.

Entries of batch sizes see the same number of examples as the others, with the learning rate in proportion to the batch
size (Goyal et al. 2017, section 2.1). Entries of DP-SGD see it too, in Poisson-sampled batches of 256 on average.

The table has mean, standard deviation and 95 % t-interval of the accuracy over seeds, and the same of its difference
from the undefended training of the same seed. It takes the test images as given: those are the same for all seeds. A
training that diverged counts with the accuracy of guessing, and is marked.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defense_settings import DP_BATCH, DP_CLIP, SETTINGS, Setting
from scipy.stats import t as student

import gradleak as gl
from gradleak.audits.sources import source_of
from gradleak.training.checkpoints import read_checkpoint
from gradleak.training.train import declare_training, shipped_trainings

NONE = "none"

Changes = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        name: in the table, and what a result is found by.
        changes: of the training spec, by dotted path.
    """

    name: str
    changes: Changes


def entries(optimizer: Mapping[str, Any], batch_size: int) -> list[Entry]:
    """The trainings of `defense_settings.SETTINGS`, the undefended one first.

    Args:
        optimizer: of the undefended training.
        batch_size: of the undefended training.

    Returns:
        One entry for each setting; those of a batch defense train with the common batch size.
    """
    return [Entry(name, changes_of(setting, optimizer["lr"], batch_size)) for name, setting in SETTINGS.items()]


def changes_of(setting: Setting, lr: float, batch_size: int) -> Changes:
    """What a setting changes of the undefended training."""
    if setting.epsilon is not None:
        return {"dp": {"epsilon": setting.epsilon, "clip": DP_CLIP}, "batch_size": DP_BATCH, "optimizer.lr": 4 * lr}
    if setting.dropout:
        return {"model.settings.dropout": setting.dropout}
    if setting.defense:
        signs = any(part["name"] == "Sign" for part in setting.defense)
        # The step of a sign is as long as its learning rate, whatever the gradient.
        return {"defense": [dict(part) for part in setting.defense], **({"optimizer.lr": lr * 1e-2} if signs else {})}
    if setting.batch_size == 1:
        return {}
    return {"batch_size": setting.batch_size, "optimizer.lr": lr * setting.batch_size / batch_size}


def overrides_of(changes: Changes) -> list[str]:
    return [f"{path}={json.dumps(value)}" for path, value in changes.items()]


def train_one(arguments: argparse.Namespace, entry: Entry, seed: int) -> dict[str, Any]:
    """One training; its line."""
    general = [f"seed={seed}", *data_overrides(arguments), *arguments.set]
    began = time.perf_counter()
    keep: AbstractContextManager[str] = (
        tempfile.TemporaryDirectory()
        if arguments.models is None
        else nullcontext(str(arguments.models / entry.name.replace(" ", "-").replace("%", "percent") / f"seed-{seed}"))
    )
    with keep as folder:
        outcome = gl.train(arguments.spec, out=folder, overrides=[*general, *overrides_of(entry.changes)])
        privacy = read_checkpoint(outcome.checkpoints[-1]).privacy if outcome.checkpoints else None
    if outcome.status == "interrupted":
        raise KeyboardInterrupt
    row = outcome.row
    return {
        "name": entry.name,
        "seed": seed,
        "changes": entry.changes,
        "general": arguments.set,
        "status": outcome.status,
        "test_accuracy": row["test_accuracy"] if outcome.complete else None,
        "train_accuracy": row["train_accuracy"] if outcome.complete else None,
        "test_loss": row["test_loss"] if outcome.complete else None,
        "epsilon": row.get("epsilon"),
        "noise_multiplier": None if privacy is None else privacy.noise_multiplier,
        "units": row["unit"],
        "epochs": row["epochs"],
        "seconds": round(time.perf_counter() - began, 2),
    }


def data_overrides(arguments: argparse.Namespace) -> list[str]:
    found = [] if arguments.train is None else [f"data.name={arguments.train}"]
    return found if arguments.test is None else [*found, f"test.name={arguments.test}"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Results so far; a last line that a kill cut off is left out."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def append(path: Path, row: Mapping[str, Any]) -> None:
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("ab") as file:
        file.write((b"\n" if torn else b"") + json.dumps(row).encode() + b"\n")


# ---- the table ---------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Mean, standard deviation and 95 % t-interval; the latter are NaN for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan, math.nan
    deviation = statistics.stdev(values)
    half = float(student.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return mean, deviation, mean - half, mean + half


def table(rows: Sequence[Mapping[str, Any]], guessing: float) -> str:
    """Markdown, in the order in which names first came."""
    by_name: dict[str, dict[int, float]] = {}
    seconds: dict[str, list[float]] = {}
    diverged: dict[str, int] = {}
    spent: dict[str, float] = {}
    for row in rows:
        name = row["name"]
        by_name.setdefault(name, {})[row["seed"]] = guessing if row["test_accuracy"] is None else row["test_accuracy"]
        seconds.setdefault(name, []).append(row["seconds"])
        diverged[name] = diverged.get(name, 0) + (row["status"] == "diverged")
        if row["epsilon"] is not None:
            spent[name] = row["epsilon"]
    plain = by_name.get(NONE, {})
    lines = [
        "| defense | seeds | accuracy % | sd | 95 % interval | less than none, % points | 95 % interval | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in by_name.items():
        mean, deviation, low, high = interval([100 * value for value in found.values()])
        lost = [100 * (plain[seed] - value) for seed, value in found.items() if seed in plain]
        loss = interval(lost) if lost and name != NONE else None
        note = f" (epsilon {spent[name]:.3g})" if name in spent else ""
        note += f" (diverged {diverged[name]} times)" if diverged[name] else ""
        lines.append(
            f"| {name}{note} | {len(found)} | {mean:.1f} | {deviation:.1f} | {low:.1f} to {high:.1f} | "
            + (f"{loss[0]:.1f} | {loss[2]:.1f} to {loss[3]:.1f}" if loss else "- | -")
            + f" | {statistics.fmean(seconds[name]):.0f} |"
        )
    return "\n".join(lines).replace("nan to nan", "-").replace("nan", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="dlg-defenses", help="training spec: a shipped name or a file")
    parser.add_argument("--train", help="training images: data.name")
    parser.add_argument("--test", help="test images: test.name")
    parser.add_argument("--out", type=Path, default=Path("price.jsonl"), help="results, one line of JSON each")
    parser.add_argument("--models", type=Path, help="keep checkpoints in folders here")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="only entries whose name contains one of these")
    parser.add_argument("--without", nargs="+", default=[], help="no entries whose name contains one of these")
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="changes for every training")
    parser.add_argument("--list", action="store_true", help="print the entries and train nothing")
    parser.add_argument("--summary", action="store_true", help="print the table and train nothing")
    arguments = parser.parse_args()

    source, _ = source_of(arguments.spec, arguments.set, shipped_trainings(), "training")
    raw: dict[str, Any] = source.value
    chosen = [
        entry
        for entry in entries(raw["optimizer"], raw["batch_size"])
        if (not arguments.only or any(part in entry.name for part in arguments.only))
        and not any(part in entry.name for part in arguments.without)
    ]
    if arguments.list:
        for entry in chosen:
            print(entry.name, " ".join(overrides_of(entry.changes)), sep="\t")
        return
    if not arguments.summary:
        run(arguments, chosen)
    print(table(read_rows(arguments.out), guessing=0.1))


def can_be_trained(arguments: argparse.Namespace, entry: Entry) -> bool:
    try:
        declare_training(arguments.spec, [*data_overrides(arguments), *arguments.set, *overrides_of(entry.changes)])
    except gl.BadInput as error:
        print("\n".join(f"{entry.name} is left out: {problem}" for problem in error.problems), file=sys.stderr)
        return False
    return True


def run(arguments: argparse.Namespace, chosen: Sequence[Entry]) -> None:
    """Train what is missing; entries that cannot be trained are named first, and left out."""
    chosen = [entry for entry in chosen if can_be_trained(arguments, entry)]
    rows = read_rows(arguments.out)
    done = {(row["name"], row["seed"]): row for row in rows}
    # Rows that name the same training in two ways, as variance and as standard deviation, share its result.
    trained = {(json.dumps(row["changes"]), row["seed"]): row for row in rows}
    missing = [(entry, seed) for seed in arguments.seeds for entry in chosen if (entry.name, seed) not in done]
    for entry in chosen:
        for seed in arguments.seeds:
            row = done.get((entry.name, seed))
            if row is not None and (row["changes"], row["general"]) != (entry.changes, arguments.set):
                raise SystemExit(
                    f"{arguments.out}: expected results of the same trainings, got {entry.name!r} with "
                    f"{row['changes']} {row['general']}; choose another file"
                )
    began = time.perf_counter()
    for number, (entry, seed) in enumerate(missing, start=1):
        same = trained.get((json.dumps(entry.changes), seed))
        row = train_one(arguments, entry, seed) if same is None else {**same, "name": entry.name}
        trained[json.dumps(entry.changes), seed] = row
        append(arguments.out, row)
        left = (time.perf_counter() - began) / number * (len(missing) - number)
        accuracy = "diverged" if row["test_accuracy"] is None else f"{100 * row['test_accuracy']:.1f} %"
        print(f"{number}/{len(missing)}  {entry.name}  seed {seed}  {accuracy}  {row['seconds']:.0f} s", end="")
        print(f"  about {left / 60:.0f} min left", flush=True)


if __name__ == "__main__":
    main()
