"""How often each rule recovers the exact label multiset of a random batch with repeats, and the batch size.

    python benchmarks/labels.py --data cifar10-test.tar --trials 20 --json labels.json
    python benchmarks/labels.py --data cifar10-test.tar --nets resnet20 --weights resnet20=cifar10-resnet20.safetensors
    python benchmarks/labels.py --data cifar10-test.tar --nets lenet lenet-relu mlp --train-on cifar10-train.tar
    python benchmarks/labels.py --data cifar10-test.tar --batch-sizes 8 --distinct-labels
    python benchmarks/labels.py --data cifar10-test.tar --size

A fresh network (unless it is trained) and a fresh batch for each trial; the gradient is that of the mean cross-entropy
in float32, BatchNorm in evaluation mode. Rules without repeats are counted as wrong where labels repeat. *Wrong labels*
is half the sum of count errors; *proved* the share of labels that `recover_counts` proves; *traceless* the share of
examples whose residual is below 1e-7 of the batch's largest: float32 gradients do not hold those labels.
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
from gradleak.zoo.models import lenet, load_weights, mlp, resnet20, resnet56

NETS: dict[str, Callable[[int, int], nn.Module]] = {
    "lenet": lambda classes, seed: lenet(classes, initialization="default", seed=seed),
    "lenet-wide": lambda classes, seed: lenet(classes, seed=seed),
    "lenet-relu": lambda classes, seed: lenet(classes, initialization="default", activation=nn.ReLU, seed=seed),
    "mlp": lambda classes, seed: mlp(3072, (400,), classes, seed=seed),
    "resnet20": lambda classes, seed: resnet20(classes, seed=seed),
    "resnet56": lambda classes, seed: resnet56(classes, seed=seed),
}
EPOCHS = {"lenet": (8, 5e-3), "lenet-relu": (5, 2e-3), "mlp": (2, 1e-3)}
"""Epochs and learning rate of the nets that are trained here."""
TRACELESS = 1e-7
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Row:
    """One rule on one network and batch size."""

    net: str
    trained: bool
    distinct: bool
    batch_size: int
    rule: str
    exact: int
    trials: int
    wrong_labels: float
    certain: int
    certain_and_wrong: int
    proved: float
    wrongly_proved: int
    traceless: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """One rule on one batch."""

    counts: Tensor
    truth: Tensor
    certain: bool = False
    at_least: Tensor | None = None
    traceless: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Setting:
    """A network with the space of its inputs; `model` is None where each trial has a fresh one."""

    net: str
    classes: int
    space: gl.ImageSpace
    model: nn.Module | None

    def task(self, seed: int) -> gl.Task:
        """The public task of one trial."""
        return gl.Task(self.model or NETS[self.net](self.classes, seed), self.space, self.classes)


def trained_here(net: str, classes: int, path: Path) -> nn.Module:
    """The network after a few epochs of Adam in batches of 64."""
    data, model = load(path), NETS[net](classes, 0)
    epochs, rate = EPOCHS[net]
    generator, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.inputs[rows]), data.targets[rows]).backward()
            optimizer.step()
    return model


def setting(net: str, classes: int, arguments: argparse.Namespace) -> Setting:
    plain, normalized = gl.ImageSpace((3, 32, 32)), gl.ImageSpace((3, 32, 32), *IMAGENET)
    weights = dict(item.partition("=")[::2] for item in arguments.weights)
    if net in weights:
        return Setting(net, classes, normalized, load_weights(NETS[net](classes, 0), weights[net]))
    if arguments.train_on is not None:
        return Setting(net, classes, plain, trained_here(net, classes, arguments.train_on))
    return Setting(net, classes, plain, None)


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
    if count == 1:
        rules["row-sum sign"] = present(torch.tensor([labels.row_sum_sign(weight_gradient)]))
    if count <= classes:
        rules["row minimum"] = present(labels.row_minimum(weight_gradient, count))
    return rules


def traceless(task: gl.Task, inputs: Tensor, targets: Tensor) -> float:
    """Share of the examples that leave nothing in a float32 gradient."""
    with torch.no_grad():
        outputs = task.space.forward(task.model.eval(), {}, task.encode(inputs)).double()
    residuals = (torch.softmax(outputs, dim=1) - nn.functional.one_hot(targets, task.num_classes)).norm(dim=1)
    return float((residuals < TRACELESS * residuals.max()).double().mean())


def outcomes(of: Setting, count: int, arguments: argparse.Namespace) -> dict[str, list[Outcome]]:
    """Every rule on every batch."""
    data, results = load(arguments.data), dict[str, list[Outcome]]()
    for trial in range(arguments.seed, arguments.seed + arguments.trials):
        task = of.task(trial)
        inputs, targets = data.sample(count, seed=trial, distinct_labels=arguments.distinct_labels)
        observation, _ = gl.capture(task, inputs, targets)
        truth = torch.bincount(targets, minlength=of.classes)
        hidden = traceless(task, inputs, targets)
        for rule, counts in published_rules(observation, count).items():
            results.setdefault(rule, []).append(Outcome(counts, truth, traceless=hidden))
        if arguments.joint_evaluations:
            began = time.perf_counter()
            joint = gl.attacks.dlg(max_evaluations=arguments.joint_evaluations)(observation, seed=trial).targets
            counts = torch.bincount(joint.clamp_min(0), minlength=of.classes)
            seconds = time.perf_counter() - began
            results.setdefault("joint (DLG)", []).append(Outcome(counts, truth, traceless=hidden, seconds=seconds))
        began = time.perf_counter()
        found = labels.recover_counts(observation, count)
        seconds = time.perf_counter() - began
        assert isinstance(found, labels.LabelCounts)
        ours = Outcome(found.counts, truth, found.certain, found.at_least, hidden, seconds)
        results.setdefault("recover_counts", []).append(ours)
    return results


def sizes(of: Setting, count: int, arguments: argparse.Namespace) -> dict[str, list[Outcome]]:
    """The batch size where it is withheld."""
    data, results = load(arguments.data), list[Outcome]()
    for trial in range(arguments.seed, arguments.seed + arguments.trials):
        inputs, targets = data.sample(count, seed=trial)
        withheld = gl.ThreatModel(batch_size_known=False)
        observation, _ = gl.capture(of.task(trial), inputs, targets, threat=withheld)
        began = time.perf_counter()
        found = labels.recover_batch_size(observation)
        seconds = time.perf_counter() - began
        size, certain = (found.size, found.certain) if isinstance(found, labels.BatchSize) else (0, False)
        results.append(Outcome(torch.tensor([size]), torch.tensor([count]), certain, seconds=seconds))
    return {"batch size": results}


def row(of: Setting, count: int, rule: str, found: list[Outcome], *, distinct: bool) -> Row:
    wrong = [not torch.equal(one.counts, one.truth) for one in found]
    bounds = [(one.at_least, one.truth) for one in found if one.at_least is not None]
    return Row(
        net=of.net,
        trained=of.model is not None,
        distinct=distinct,
        batch_size=count,
        rule=rule,
        exact=len(found) - sum(wrong),
        trials=len(found),
        wrong_labels=sum(float((one.counts - one.truth).abs().sum()) / 2 for one in found) / len(found),
        certain=sum(one.certain for one in found),
        certain_and_wrong=sum(one.certain and bad for one, bad in zip(found, wrong, strict=True)),
        proved=sum(float(bound.sum()) for bound, _ in bounds) / (count * len(found)),
        wrongly_proved=sum(bool((bound > truth).any()) for bound, truth in bounds),
        traceless=sum(one.traceless for one in found) / len(found),
        seconds=sum(one.seconds for one in found) / len(found),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; images 3 x 32 x 32")
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=tuple(NETS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(8, 32, 64))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--weights", action="append", default=[], metavar="NET=PATH", help="trained weights of a net")
    parser.add_argument("--train-on", type=Path, help="train the nets without weights on these images first")
    parser.add_argument("--distinct-labels", action="store_true", help="batches without repeats")
    parser.add_argument("--joint-evaluations", type=int, default=0, help="of DLG's joint optimization; 0 for none")
    parser.add_argument("--size", action="store_true", help="withhold and recover the batch size instead")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    print("net          batch  rule             exact  wrong  certain (wrong)  proved (wrong)  traceless  seconds")
    for net in arguments.nets:
        of = setting(net, load(arguments.data).num_classes, arguments)
        for count in arguments.batch_sizes:
            for rule, found in (sizes if arguments.size else outcomes)(of, count, arguments).items():
                rows.append(row(of, count, rule, found, distinct=arguments.distinct_labels))
                one = rows[-1]
                name = one.net + "*" * one.trained
                print(
                    f"{name:<12}{one.batch_size:>6}  {one.rule:<15}{one.exact:>4}/{one.trials:<3}"
                    f"{one.wrong_labels:>6.2f}{one.certain:>9} ({one.certain_and_wrong})"
                    f"{one.proved:>12.2f} ({one.wrongly_proved}){one.traceless:>13.2f}{one.seconds:>9.2f}",
                    flush=True,
                )
    print("* trained")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
