"""How often each rule recovers the exact label multiset of a random batch with repeats.

    python benchmarks/labels.py --data cifar10-test.tar --trials 20 --json labels.json
    python benchmarks/labels.py --data cifar10-test.tar --nets resnet20 --weights resnet20=cifar10-resnet20.safetensors

A fresh network (unless trained weights are given) and a fresh batch for each trial; the gradient is that of the mean
cross-entropy in float32, BatchNorm in evaluation mode. Rules without repeats are counted as wrong where labels repeat.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks import labels
from gradleak.attacks.head import find_head
from gradleak.attacks.labels.dummies import dummy_variables, responses
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet, load_weights, mlp, resnet20

NETS: dict[str, Callable[[int, int], nn.Module]] = {
    "lenet": lambda classes, seed: lenet(classes, initialization="default", seed=seed),
    "lenet-wide": lambda classes, seed: lenet(classes, seed=seed),
    "mlp": lambda classes, seed: mlp(3072, (400,), classes, seed=seed),
    "resnet20": lambda classes, seed: resnet20(classes, seed=seed),
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Row:
    """One rule on one network and batch size."""

    net: str
    trained: bool
    batch_size: int
    rule: str
    exact: int
    trials: int
    wrong_labels: float
    certain: int
    certain_and_wrong: int
    seconds: float


def published_rules(observation: gl.Observation, count: int) -> dict[str, Tensor]:
    head = find_head(observation.task, observation.state)
    assert head is not None
    assert head.bias is not None
    gradient = observation.update.in_gradient_direction()
    weight_gradient, bias_gradient = gradient[head.weight], gradient[head.bias]
    weight, bias = observation.state.parameters[head.weight], observation.state.parameters[head.bias]
    classes = observation.task.num_classes
    dummies = responses(observation, head, dummy_variables(observation.task.space, 256), count)
    probabilities = torch.softmax(dummies.logits, dim=1)

    def present(found: Tensor) -> Tensor:
        return torch.bincount(found, minlength=classes)

    rules = {
        "bias sign": present(labels.present_by_bias_sign(bias_gradient)),
        "LLG": labels.llg(weight_gradient, count),
        "LLG*": labels.llg_white_box(weight_gradient, count, dummies.features, probabilities),
        "bias-corrected": labels.bias_corrected(bias_gradient, count),
        "mean softmax": labels.counts_from_mean_softmax(bias_gradient, probabilities.mean(dim=0), count),
        "iLRG": labels.ilrg(weight_gradient, bias_gradient, weight, bias, count),
    }
    if count <= classes:
        rules["row minimum"] = present(labels.row_minimum(weight_gradient, count))
    return rules


def measure(net: str, trained: Path | None, count: int, arguments: argparse.Namespace) -> list[Row]:
    data = load(arguments.data)
    classes = data.num_classes
    results: dict[str, list[tuple[Tensor, Tensor, bool]]] = {}
    seconds = 0.0
    for trial in range(arguments.seed, arguments.seed + arguments.trials):
        model = NETS[net](classes, trial)
        space = gl.ImageSpace((3, 32, 32))
        if trained is not None:
            model, space = load_weights(model, trained), gl.ImageSpace((3, 32, 32), *IMAGENET)
        inputs, targets = data.sample(count, seed=trial)
        observation, _ = gl.capture(gl.Task(model, space, classes), inputs, targets)
        truth = torch.bincount(targets, minlength=classes)
        for rule, counts in published_rules(observation, count).items():
            results.setdefault(rule, []).append((counts, truth, False))
        began = time.perf_counter()
        found = labels.recover_counts(observation, count)
        seconds += time.perf_counter() - began
        assert isinstance(found, labels.LabelCounts)
        results.setdefault("recover_counts", []).append((found.counts, truth, found.certain))
    return [
        Row(
            net=net,
            trained=trained is not None,
            batch_size=count,
            rule=rule,
            exact=sum(torch.equal(counts, truth) for counts, truth, _ in outcomes),
            trials=len(outcomes),
            wrong_labels=sum(float((counts - truth).abs().sum()) / 2 for counts, truth, _ in outcomes) / len(outcomes),
            certain=sum(certain for _, _, certain in outcomes),
            certain_and_wrong=sum(certain and not torch.equal(counts, truth) for counts, truth, certain in outcomes),
            seconds=seconds / len(outcomes) if rule == "recover_counts" else 0.0,
        )
        for rule, outcomes in results.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; images 3 x 32 x 32")
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=tuple(NETS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(8, 32, 64))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--weights", action="append", default=[], metavar="NET=PATH", help="trained weights of a net")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trained = {net: Path(path) for net, _, path in (item.partition("=") for item in arguments.weights)}
    rows: list[Row] = []
    print("net         batch  rule              exact   wrong labels  certain  certain but wrong  seconds")
    for net in arguments.nets:
        for count in arguments.batch_sizes:
            for row in measure(net, trained.get(net), count, arguments):
                rows.append(row)
                print(
                    f"{row.net + '*' * row.trained:<12}{count:>4}  {row.rule:<15}{row.exact:>4}/{row.trials:<4}"
                    f"{row.wrong_labels:>11.2f}{row.certain:>11}{row.certain_and_wrong:>14}{row.seconds:>17.2f}",
                    flush=True,
                )
    if trained:
        print("* trained weights")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
