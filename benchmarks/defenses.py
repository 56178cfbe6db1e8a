"""The defense table: what the paper's attack, a blind one and one that knows the defense rebuild behind each defense.

    python benchmarks/defenses.py --data cifar10-test.tar --images 20 --seconds 3 --rows rows.jsonl
    python benchmarks/defenses.py --rows rows.jsonl --price price.jsonl --report

DP-SGD's noise is that of the training whose row `--price` holds; the attacked update is that of one example, as for an
adversary who knows all others of the batch. Each random image is attacked behind each setting of `defense_settings.py`
by three attackers: `dlg`, as the paper has it and blind; `blind`, the portfolio without knowledge of the defense;
`adaptive`, the portfolio that knows it. Labels are unknown to all. Image k of a setting, its network and every start
follow from `--seed` + k, so that every attacker sees the same update. Rows are appended as they are found; a second
call skips those that are there.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from defense_settings import DP_CLIP, SETTINGS, Setting
from torch import nn

import gradleak as gl
from gradleak.audits.by_name import defense_named
from gradleak.scoring.baselines import mean_color
from gradleak.scoring.scores import score_inputs
from gradleak.scoring.statistics import quantiles, wilson_interval
from gradleak.zoo.data import load
from gradleak.zoo.data.dataset import Dataset
from gradleak.zoo.models import lenet

SUCCESS_DB = 20.0
NETS: dict[str, tuple[int, Literal["uniform", "default"]]] = {
    "wide": (10, "uniform"),
    "default": (10, "default"),
    "released": (100, "uniform"),
}
"""Classes and initialization of the LeNet; the released script has 100."""
ATTACKERS = ("dlg", "blind", "adaptive")


@dataclass(frozen=True)
class Row:
    """One attacker on one batch behind one setting."""

    setting: str
    net: str
    attacker: str
    seed: int
    psnr: list[float]
    ssim: list[float]
    labels: int
    without_update: float
    status: str
    seconds: float
    seconds_allowed: float
    evaluations: int
    message: str


def network(net: str, setting: Setting, seed: int) -> nn.Module:
    """One of the LeNets."""
    classes, initialization = NETS[net]
    return lenet(classes, initialization=initialization, dropout=setting.dropout, seed=seed)


def client(setting: Setting, noise_multiplier: float) -> gl.clients.Client:
    if setting.epsilon is not None:
        return gl.clients.DPSGD(clip=DP_CLIP, noise_multiplier=noise_multiplier)
    return gl.clients.Gradient(dropout="random" if setting.dropout else None)


def attack_of(attacker: str, arguments: argparse.Namespace) -> gl.attacks.Attack:
    if attacker == "dlg":
        return gl.attacks.dlg(max_evaluations=arguments.dlg_evaluations, max_seconds=5 * arguments.seconds)
    return gl.attacks.auto(max_seconds=arguments.seconds)


def rows_of(name: str, seed: int, data: Dataset, arguments: argparse.Namespace, done: set[Any]) -> Iterator[Row]:
    """The attackers that are missing on one batch."""
    setting = SETTINGS[name]
    count = setting.batch_size
    attackers = [one for one in arguments.attackers if (name, arguments.net, one, seed) not in done]
    if not attackers:
        return
    inputs, targets = data.sample(count, seed=seed)
    task = gl.Task(
        network(arguments.net, setting, seed), gl.ImageSpace((3, 32, 32)), num_classes=NETS[arguments.net][0]
    )
    defenses = [
        defense_named(one["name"], {key: value for key, value in one.items() if key != "name"})
        for one in setting.defense
    ]
    multiplier = 0.0 if setting.epsilon is None else arguments.noise_multipliers[name]
    for attacker in attackers:
        known = attacker == "adaptive"
        # Not to know DP-SGD's noise, or that masks are drawn, is not to know the client.
        threat = gl.ThreatModel(defense_known=known, client_known=known or not (setting.dropout or setting.epsilon))
        observation, truth = gl.capture(
            task, inputs, targets, client=client(setting, multiplier), defenses=defenses, threat=threat, seed=seed
        )
        found = attack_of(attacker, arguments)(observation, seed=seed)
        columns = gl.score(found, truth).to_dict()
        baseline = score_inputs(mean_color(truth), truth).to_dict()["psnr"]
        yield Row(
            name,
            arguments.net,
            attacker,
            seed,
            [float(value or 0.0) for value in columns["psnr"]],
            [float(value or 0.0) for value in columns["ssim"]],
            sum(bool(value) for value in columns["target_correct"]),
            statistics.mean(float(value or 0.0) for value in baseline),
            found.status,
            found.seconds,
            arguments.seconds,
            found.evaluations,
            found.message[:200],
        )


def read(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def cell(rows: Sequence[dict[str, Any]]) -> str:
    """Median PSNR over images, and the share of batches of which an image leaks."""
    if not rows:
        return "-"
    images = [-math.inf if value != value else value for row in rows for value in row["psnr"]]
    hits = sum(max(row["psnr"]) >= SUCCESS_DB for row in rows)
    low, high = wilson_interval(hits, len(rows))
    middle = quantiles(images, (0.5,)).values[0]
    return f"{middle:.1f} ({hits}/{len(rows)}, {100 * low:.0f}-{100 * high:.0f} %)"


def accuracy(prices: Sequence[dict[str, Any]], name: str) -> str:
    """Mean over seeds with the standard deviation."""
    own = [row["test_accuracy"] for row in prices if row["name"] == name]
    found = [100 * value for value in own if value is not None]
    failed = len(own) - len(found)
    if not found:
        return f"diverged ({failed})" if failed else "-"
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread}" + (f", {failed} diverged" if failed else "")


def report(rows: Sequence[dict[str, Any]], prices: Sequence[dict[str, Any]], net: str) -> str:
    """A table in Markdown."""
    own = [row for row in rows if row["net"] == net]
    lines = [
        f"Threat model: {gl.ThreatModel().describe()} (adaptive); the others do not know the defense.",
        "",
        "| setting | accuracy, % | dlg, dB (above 20 dB) | blind | adaptive | adaptive - blind, dB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in SETTINGS:
        of = {one: [row for row in own if row["setting"] == name and row["attacker"] == one] for one in ATTACKERS}
        if not any(of.values()):
            continue
        lines.append(
            f"| {name} | {accuracy(prices, name)} | {cell(of['dlg'])} | {cell(of['blind'])} | {cell(of['adaptive'])} | "
            f"{margin(of['blind'], of['adaptive'])} |"
        )
    return "\n".join(lines)


def margin(blind: Sequence[dict[str, Any]], adaptive: Sequence[dict[str, Any]]) -> str:
    """Median over batches of the difference of their mean PSNR, and on how many the adaptive one is ahead."""
    before, after = ({row["seed"]: _mean_or_nothing(row["psnr"]) for row in rows} for rows in (blind, adaptive))
    differences = [after[seed] - before[seed] for seed in before if seed in after]
    if not differences:
        return "-"
    return f"{statistics.median(differences):+.1f} (ahead on {sum(d > 0 for d in differences)}/{len(differences)})"


def _mean_or_nothing(psnr: Sequence[float]) -> float:
    """The mean; minus infinity where the attack gave no image."""
    mean = statistics.mean(psnr)
    return -math.inf if math.isnan(mean) else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; default photographs")
    parser.add_argument("--images", type=int, default=20, help="batches of each setting")
    parser.add_argument("--seconds", type=float, default=3.0, help="wall time of every attack")
    parser.add_argument("--dlg-evaluations", type=int, default=2000, help="of dlg, which gets five times the seconds")
    parser.add_argument("--net", choices=tuple(NETS), default="wide", help="which LeNet")
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--attackers", nargs="+", choices=ATTACKERS, default=list(ATTACKERS))
    parser.add_argument("--seed", type=int, default=0, help="batch k uses seed + k")
    parser.add_argument("--rows", type=Path, help="append every row here")
    parser.add_argument("--price", type=Path, help="accuracies, as price.py writes them")
    parser.add_argument("--report", action="store_true", help="print the table of what is there, and attack nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prices, rows = read(arguments.price), read(arguments.rows)
    arguments.noise_multipliers = {
        row["name"]: row["noise_multiplier"] for row in prices if row.get("noise_multiplier") is not None
    }
    if not arguments.report:
        data = load(arguments.data).resized(32)
        done = {(row["setting"], row["net"], row["attacker"], row["seed"]) for row in rows}
        for name in arguments.settings:
            if SETTINGS[name].epsilon is not None and name not in arguments.noise_multipliers:
                print(f"{name} is left out: its noise follows from the training, see --price", file=sys.stderr)
                continue
            for seed in range(arguments.seed, arguments.seed + arguments.images):
                for row in rows_of(name, seed, data, arguments, done):
                    rows.append(asdict(row))
                    print(f"{name:<24} {row.attacker:<9} {seed:4d} {statistics.mean(row.psnr):7.2f} dB", flush=True)
                    if arguments.rows is not None:
                        with arguments.rows.open("a") as file:
                            file.write(json.dumps(asdict(row)) + "\n")
    print(report(rows, prices, arguments.net))


if __name__ == "__main__":
    main()
