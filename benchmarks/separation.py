"""How far a batch is separated at the softmax head of a 100-class LeNet, and of one that was trained for a while.

    python benchmarks/separation.py --data cifar10-test.tar --trials 10 --json separation.json
    python benchmarks/separation.py --data cifar10-test.tar --trials 10 --repeated-labels
    python benchmarks/separation.py --data cifar10-test.tar --train cifar10-train.tar --nets trained --batch-sizes 4 8

A fresh network and a fresh batch for each trial. There are 100 classes but the images are of any data set: their
labels are drawn at random, different unless `--repeated-labels`, and say nothing about the images. `trained` is the
exception: a LeNet with tanh and the data set's own classes and labels, trained on `--train` for `--steps` steps of
Adam; its accuracy on `--data` is in every row.

The update is the gradient of the mean cross-entropy in float32, and once more in float64; labels are unknown. Labels
are those of the certified separation, if there is one, and count as recovered when the whole multiset is right. The
features of an example are exact when their root-mean-square error is below a thousandth of their spread, which is
their standard deviation over the batch averaged over features. Errors are measured after pairing examples (by label
where labels differ); N examples leave N^2 unknowns and (C - 1)(N + 1) equations.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form.likely_separation import separate_likely
from gradleak.attacks.closed_form.separation import Separation
from gradleak.attacks.closed_form.separation_equations import HeadProblem
from gradleak.attacks.labels import LabelCounts, recover_counts
from gradleak.attacks.labels.dummies import dummy_variables
from gradleak.zoo.data import Dataset, load
from gradleak.zoo.models import lenet

CLASSES = 100
EXACT = 1e-3
STARTS = 12
TYPICAL = 256
SPACE = gl.ImageSpace((3, 32, 32))
NETS: dict[str, Callable[[int], nn.Sequential]] = {
    "default": lambda seed: lenet(CLASSES, initialization="default", seed=seed),
    "uniform": lambda seed: lenet(CLASSES, seed=seed),
}


@dataclass(frozen=True)
class Row:
    """One batch in one precision."""

    net: str
    classes: int
    accuracy: float | None
    batch_size: int
    repeated_labels: bool
    float64: bool
    trial: int
    labels_at_once: bool
    labels_right: bool
    certified: bool
    exact: int
    largest_error: float
    median_error: float
    estimated_error: float
    misfit: float
    starts: int
    unknowns: int
    equations: int
    seconds: float


def trained(data: Dataset, steps: int, seed: int) -> nn.Sequential:
    """A LeNet with tanh after some steps of Adam on batches of 64; with sigmoids it would not leave its plateau."""
    model = lenet(data.num_classes, activation=nn.Tanh, initialization="default", seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(data), (64,), generator=generator)
        loss = nn.functional.cross_entropy(model(data.inputs[chosen]), data.targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def accuracy_of(model: nn.Sequential, data: Dataset) -> float:
    with torch.no_grad():
        return float((model(data.inputs).argmax(dim=1) == data.targets).double().mean())


def attack(observation: gl.Observation, count: int) -> tuple[LabelCounts, Tensor, Separation]:
    """What an attacker does: label counts first, then the separation that is certified under the likeliest of them."""
    task, update, state = observation.task, observation.update.tensors, observation.state.parameters
    counts = recover_counts(observation, count)
    assert isinstance(counts, LabelCounts)
    assert isinstance(task.model, nn.Sequential)
    body = copy.deepcopy(task.model[:-1]).double()
    with torch.no_grad():
        typical = body(dummy_variables(task.space, TYPICAL).double())
    weight = update["linear.weight"]

    def problem(labels: Tensor) -> HeadProblem:
        return HeadProblem(
            weight.double(),
            update["linear.bias"].double(),
            state["linear.weight"].double(),
            state["linear.bias"].double(),
            nn.functional.one_hot(labels, task.num_classes).double(),
            torch.full((count,), 1 / count, dtype=torch.float64),
            torch.finfo(weight.dtype).eps / 2,
            typical,
        )

    labels, separation = separate_likely(problem, counts.candidates(), starts=STARTS)
    return counts, labels, separation


def measure(net: str, model: nn.Sequential, inputs: Tensor, targets: Tensor, classes: int, trial: int) -> Row:
    """Attack one batch in the model's precision; the truth is used after the attack alone."""
    dtype = next(model.parameters()).dtype
    task = gl.Task(model, SPACE, classes)
    observation, _ = gl.capture(task, inputs.to(dtype), targets)
    began = time.perf_counter()
    counts, labels, found = attack(observation, len(inputs))
    seconds = time.perf_counter() - began
    with torch.no_grad():
        features = copy.deepcopy(model[:-1]).double()(inputs.double())
    spread = float(features.std(dim=0).mean())
    # Different labels are in another place from any other, so that the cost pairs by label first.
    distance = torch.cdist(found.features, features) / features.shape[1] ** 0.5 / spread
    cost = distance + 1e6 * (labels[:, None] != targets[None])
    places = linear_sum_assignment(cost.numpy())
    errors = distance[places[0], places[1]]
    count, repeated = len(inputs), len(targets.unique()) < len(targets)
    return Row(
        net=net,
        classes=classes,
        accuracy=None,
        batch_size=count,
        repeated_labels=repeated,
        float64=dtype == torch.float64,
        trial=trial,
        labels_at_once=torch.equal(counts.labels(), targets.sort().values),
        labels_right=torch.equal(labels.sort().values, targets.sort().values),
        certified=found.certified,
        exact=int((errors < EXACT).sum()),
        largest_error=float(errors.max()),
        median_error=float(errors.median()),
        estimated_error=float(found.std.max()) / spread,
        misfit=found.misfit,
        starts=found.starts,
        unknowns=count**2,
        equations=(classes - 1) * (count + 1),
        seconds=seconds,
    )


def batch_of(data: Dataset, net: str, count: int, trial: int, repeated: bool) -> tuple[Tensor, Tensor]:
    """Images, with their own labels for the trained network and random ones of 100 for the others."""
    if net == "trained":
        return data.sample(count, seed=trial, distinct_labels=not repeated)
    inputs, _ = data.sample(count, seed=trial)
    generator = torch.Generator().manual_seed(trial)
    drawn = torch.randint(CLASSES, (count,), generator=generator)
    return inputs, drawn if repeated else torch.randperm(CLASSES, generator=generator)[:count]


def summary(rows: list[Row]) -> str:
    examples = sum(row.batch_size for row in rows)
    errors = sorted(row.largest_error for row in rows)
    return (
        f"{rows[0].net:<9}{rows[0].batch_size:>3}  {'float64' if rows[0].float64 else 'float32'}"
        f"{sum(row.labels_at_once for row in rows):>9}{sum(row.labels_right for row in rows):>11}"
        f"{sum(row.certified for row in rows):>11}"
        f"{sum(row.certified and row.exact < row.batch_size for row in rows):>11}"
        f"{sum(row.exact == row.batch_size for row in rows):>9} of {len(rows):<3}"
        f"{sum(row.exact for row in rows):>6} of {examples:<5}{errors[len(errors) // 2]:>9.1e}{errors[-1]:>9.1e}"
        f"{sorted(row.seconds for row in rows)[len(rows) // 2]:>8.1f}{max(row.seconds for row in rows):>8.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photographs", help="folder, tar or bundled name; images 3 x 32 x 32")
    parser.add_argument("--train", help="data of the same kind that `trained` was trained on; never attacked")
    parser.add_argument("--steps", type=int, default=500, help="of that training")
    parser.add_argument("--nets", nargs="+", choices=(*NETS, "trained"), default=tuple(NETS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(16, 32, 64))
    parser.add_argument("--repeated-labels", action="store_true")
    parser.add_argument("--precisions", nargs="+", choices=("float32", "float64"), default=("float32", "float64"))
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    if "trained" in arguments.nets and arguments.train is None:
        parser.error("--nets trained: needs --train")
    torch.set_num_threads(1)
    data = load(arguments.data)
    training = load(arguments.train) if arguments.train is not None else None
    rows: list[Row] = []
    print(
        "net        N  update   labels at once  right  certified  not exact  all exact     examples  "
        "worst error: median, most   seconds: median, most"
    )
    for net in arguments.nets:
        for count in arguments.batch_sizes:
            cells: dict[str, list[Row]] = {precision: [] for precision in arguments.precisions}
            for trial in range(arguments.seed, arguments.seed + arguments.trials):
                model = (
                    NETS[net](trial) if training is None or net in NETS else trained(training, arguments.steps, trial)
                )
                inputs, targets = batch_of(data, net, count, trial, arguments.repeated_labels)
                classes = data.num_classes if net == "trained" else CLASSES
                accuracy = accuracy_of(model, data) if net == "trained" else None
                for precision, cell in cells.items():
                    cast = copy.deepcopy(model).to(getattr(torch, precision))
                    cell.append(replace(measure(net, cast, inputs, targets, classes, trial), accuracy=accuracy))
            for cell in cells.values():
                accuracies = [row.accuracy for row in cell if row.accuracy is not None]
                note = f"   accuracy {min(accuracies):.2f} to {max(accuracies):.2f}" if accuracies else ""
                print(summary(cell) + note, flush=True)
                rows += cell
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
