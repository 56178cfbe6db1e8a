"""What the weight delta of federated averaging gives away: several local epochs, batch order and labels unknown.

    python benchmarks/fedavg.py --data cifar10-test.tar --train cifar10-train.tar --epochs 1 5 10
    python benchmarks/fedavg.py --data cifar10-test.tar --train cifar10-train.tar --images 50 --batch-size 5 --trials 4

The network is the CNN of McMahan et al. (2017): two 5x5 convolutions of 32 and 64 channels, a hidden linear layer of
512 units and a linear classifier; with strides in place of max-pooling and `--activation` (tanh unless told otherwise)
in place of ReLU. It is trained on `--train` with SGD; images of `--data` are attacked, which it has never seen. Without
`--train` the first three quarters of `--data` train it and the rest is attacked. `--weights` loads it instead.

Each trial draws other images and another order of every epoch. An image counts as recovered above 19 dB (Dimitrov et
al. 2022, CIFAR-100). Beside the attacks stand a grey card and the mean training image, under the same pairing. Costs
are seconds of one evaluation, measured in this process at grey images: of one gradient of all images in the middle of
the path, of the same with the point of the path searched (SME), and of the simulation of all local steps.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.objectives import cosine_distance
from gradleak.attacks.protocol import Attack
from gradleak.attacks.surrogate import surrogate_gradient
from gradleak.optim import Energy, value_and_gradient
from gradleak.scoring.baselines import dataset_mean, grey
from gradleak.scoring.scores import Scores, score_inputs
from gradleak.scoring.statistics import bootstrap_median, wilson_interval
from gradleak.threat import simulator
from gradleak.zoo.data import Dataset, load
from gradleak.zoo.models import load_weights
from gradleak.zoo.models.building import named_layers, seeded

RECOVERED = 19.0
MOMENTUM = 0.9
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": lambda: nn.Softplus(beta=5),
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
}
ATTACKS: dict[str, Callable[[float | None], Attack]] = {
    "local_training": lambda seconds: gl.attacks.local_training(max_seconds=seconds),
    "local_training without simulation": lambda seconds: gl.attacks.local_training(
        max_seconds=seconds, simulated_examples=0
    ),
    "local_training without separation": lambda seconds: gl.attacks.local_training(
        max_seconds=seconds, separation=False
    ),
    "sme": lambda seconds: gl.attacks.sme(max_seconds=seconds),
    "order_invariant": lambda seconds: gl.attacks.order_invariant(max_seconds=seconds),
}


@dataclass(frozen=True)
class Row:
    """One attack, or one baseline, on one client's delta; numbers are one for each true image."""

    epochs: int
    trial: int
    attack: str
    psnr: list[float]
    labels_right: int
    evaluations: int
    seconds: float
    trace: list[str]


@dataclass(frozen=True)
class Cost:
    """Seconds of one evaluation, value and gradient by all images."""

    epochs: int
    trial: int
    surrogate: float
    sme: float
    simulation: float
    steps: int


def network(shape: tuple[int, ...], classes: int, arguments: argparse.Namespace) -> nn.Sequential:
    channels, height, width = shape
    first, second, hidden = arguments.width, 2 * arguments.width, arguments.hidden
    activation = ACTIVATIONS[arguments.activation]
    features = second * -(-height // 4) * -(-width // 4)
    return seeded(
        0,
        lambda: named_layers(
            ("conv1", nn.Conv2d(channels, first, 5, stride=2, padding=2)),
            ("activation1", activation()),
            ("conv2", nn.Conv2d(first, second, 5, stride=2, padding=2)),
            ("activation2", activation()),
            ("flatten", nn.Flatten()),
            ("hidden", nn.Linear(features, hidden)),
            ("activation3", activation()),
            ("linear", nn.Linear(hidden, classes)),
        ),
    )


def train(task: gl.Task, data: tuple[Tensor, Tensor], epochs: int, lr: float) -> None:
    """SGD with momentum on batches of 64; the same weights every time."""
    inputs, targets = data
    optimizer = torch.optim.SGD(task.model.parameters(), lr=lr, momentum=MOMENTUM)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs), generator=generator).split(64):
            loss = nn.functional.cross_entropy(task.space.forward(task.model, {}, inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy_of(task: gl.Task, data: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        right = [
            (task.space.forward(task.model, {}, inputs).argmax(dim=1) == targets).double()
            for inputs, targets in zip(data[0].split(500), data[1].split(500), strict=True)
        ]
    return float(torch.cat(right).mean())


def parts(arguments: argparse.Namespace) -> tuple[Dataset, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The data set, and inputs and targets to train on and to attack, which share no image."""
    data = load(arguments.data)
    data = data if arguments.size is None else data.resized(arguments.size)
    if arguments.train is not None:
        other = load(arguments.train)
        other = other if arguments.size is None else other.resized(arguments.size)
        return data, (other.inputs, other.targets), (data.inputs, data.targets)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    first, rest = order[: 3 * len(data) // 4], order[3 * len(data) // 4 :]
    return data, (data.inputs[first], data.targets[first]), (data.inputs[rest], data.targets[rest])


def seconds_of(energy: Energy, point: Tensor) -> float:
    """Of one evaluation: the fastest of a few."""
    evaluate = value_and_gradient(energy)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        evaluate(point[None])
        best = min(best, time.perf_counter() - began)
    return best


def cost(observation: gl.Observation, count: int, epochs: int, trial: int) -> Cost:
    """What one evaluation takes at grey images."""
    task, client = observation.task, observation.client
    assert isinstance(client, gl.clients.LocalSGD)
    inputs = torch.full((count, *task.space.shape), 0.5)
    targets = task.target_probabilities(torch.arange(count) % task.num_classes)

    def energy_of(simulate: gl.clients.Simulate) -> Energy:
        observed = dict(observation.update.tensors)
        return lambda point: cosine_distance(simulate(point.view(inputs.shape), targets), observed)

    point, alpha = inputs.flatten(), torch.tensor([500.0])
    return Cost(
        epochs,
        trial,
        seconds_of(energy_of(simulator(surrogate_gradient(observation))), point),
        seconds_of(gl.attacks.sme().energy(observation, targets, tuple(inputs.shape)), torch.cat([point, alpha])),
        seconds_of(energy_of(simulator(observation)), point),
        client.steps(count),
    )


def decibels(scores: Scores) -> list[float]:
    return [float("nan") if value is None else float(value) for value in scores.to_dict()["psnr"]]


def trial_rows(
    task: gl.Task, attacked: tuple[Tensor, Tensor], mean: Tensor, epochs: int, trial: int, arguments: argparse.Namespace
) -> tuple[list[Row], Cost]:
    generator = torch.Generator().manual_seed(trial)
    chosen = torch.randperm(len(attacked[0]), generator=generator)[: arguments.images]
    inputs, targets = attacked[0][chosen], attacked[1][chosen]
    client = gl.clients.LocalSGD(lr=arguments.lr, epochs=epochs, batch_size=arguments.batch_size)
    threat = gl.ThreatModel(labels_known=arguments.labels_known)
    observation, truth = gl.capture(task, inputs, targets, client=client, threat=threat, seed=trial)
    rows: list[Row] = []
    for name, guess in (("grey", grey(truth)), ("mean image", dataset_mean(truth, mean))):
        psnr = decibels(score_inputs(guess, truth))
        rows.append(Row(epochs, trial, name, psnr, 0, 0, 0.0, []))
    wanted = torch.bincount(targets, minlength=task.num_classes)
    for name in arguments.attacks:
        found = ATTACKS[name](arguments.seconds)(observation, seed=trial)
        psnr = decibels(gl.score(found, truth))
        counts = torch.bincount(found.targets.clamp_min(0), minlength=task.num_classes)
        right = int(torch.minimum(counts, wanted).sum()) if found.status != "not_applicable" else 0
        trace = [*found.trace, found.message]
        rows.append(Row(epochs, trial, name, psnr, right, found.evaluations, found.seconds, trace))
    return rows, cost(observation, arguments.images, epochs, trial)


def summary(rows: list[Row]) -> str:
    """One line: shares and quantiles over all images of all trials."""
    psnr = [value for row in rows for value in row.psnr]
    recovered = sum(value > RECOVERED for value in psnr)
    low, high = wilson_interval(recovered, len(psnr))
    median = bootstrap_median(psnr, [row.trial for row in rows for _ in row.psnr], seed=0)
    labels = sum(row.labels_right for row in rows) / len(psnr)
    seconds = sorted(row.seconds for row in rows)[len(rows) // 2]
    return (
        f"{rows[0].epochs:>6}  {rows[0].attack:<34}{recovered:>5} of {len(psnr):<4}{recovered / len(psnr):>6.0%} "
        f"({low:.0%} to {high:.0%}){median.median:>8.1f} ({median.low:.1f} to {median.high:.1f})"
        f"{min(psnr):>7.1f}{max(psnr):>7.1f}{labels:>8.0%}{seconds:>9.1f}"
    )


def cost_line(costs: list[Cost]) -> str:
    """Seconds and ratios in the middle of all trials."""

    def middle(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    surrogate, sme, simulation = (
        middle([getattr(one, name) for one in costs]) for name in ("surrogate", "sme", "simulation")
    )
    ratios = [middle([one.simulation / getattr(one, name) for one in costs]) for name in ("surrogate", "sme")]
    return (
        f"        one evaluation: {surrogate:.3f} s for a gradient in the middle, {sme:.3f} s with alpha searched "
        f"(SME), {simulation:.3f} s through {costs[0].steps} local steps: "
        f"{ratios[0]:.1f} and {ratios[1]:.1f} times as long"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="folder, file or bundled name: images that are attacked")
    parser.add_argument("--train", help="data of the same kind that the network is trained on; never attacked")
    parser.add_argument("--size", type=int, help="resize images to this many pixels")
    parser.add_argument("--weights", type=Path, help="trained weights of this network; else it is trained")
    parser.add_argument("--save-weights", type=Path, help="write the weights here")
    parser.add_argument("--activation", choices=tuple(ACTIVATIONS), default="tanh")
    parser.add_argument("--width", type=int, default=32, help="channels of the first convolution")
    parser.add_argument("--hidden", type=int, default=512, help="units of the hidden layer")
    parser.add_argument("--train-epochs", type=int, default=4)
    parser.add_argument("--train-lr", type=float, default=0.02)
    parser.add_argument("--images", type=int, default=4, help="of the client")
    parser.add_argument("--batch-size", type=int, default=2, help="of a local step")
    parser.add_argument("--epochs", type=int, nargs="+", default=(5,), help="local epochs")
    parser.add_argument("--lr", type=float, default=0.004, help="of the client")
    parser.add_argument("--labels-known", action="store_true")
    parser.add_argument("--attacks", nargs="+", choices=tuple(ATTACKS), default=("local_training",))
    parser.add_argument("--seconds", type=float, help="wall time of every attack")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, training, attacked = parts(arguments)
    if not 1 <= arguments.images <= len(attacked[0]):
        parser.error(f"--images: expected 1 to {len(attacked[0])}, got {arguments.images}")
    shape = tuple(data.inputs.shape[1:])
    # Inputs are centered and not scaled: scaling bends the path of local training more.
    space = gl.ImageSpace((shape[0], shape[1], shape[2]), mean=(float(training[0].mean()),))
    task = gl.Task(network(shape, data.num_classes, arguments), space, num_classes=data.num_classes)
    if arguments.weights is not None:
        load_weights(task.model, arguments.weights)
    else:
        train(task, training, arguments.train_epochs, arguments.train_lr)
    if arguments.save_weights is not None:
        save_file({name: value.contiguous() for name, value in task.model.state_dict().items()}, arguments.save_weights)
    accuracy = {"train": accuracy_of(task, training), "test": accuracy_of(task, attacked)}
    threat = gl.ThreatModel(labels_known=arguments.labels_known)
    print(
        f"{arguments.images} images, batches of {arguments.batch_size}, lr {arguments.lr}; "
        f"CNN with {arguments.activation}, accuracy "
        f"{accuracy['train']:.1%} on its training images and {accuracy['test']:.1%} on those attacked\n"
        f"threat model: {threat.describe()}; the order of the batches is unknown"
    )
    rows: list[Row] = []
    costs: list[Cost] = []
    mean = training[0].mean(dim=0, keepdim=True)
    print(
        f"epochs  {'attack':<34}{'above 19 dB':>13}{'(95 %)':>19}{'median dB (95 %)':>22}{'worst':>7}{'best':>7}"
        f"{'labels':>8}{'seconds':>9}"
    )
    for epochs in arguments.epochs:
        for trial in range(arguments.seed, arguments.seed + arguments.trials):
            found, seconds = trial_rows(task, attacked, mean, epochs, trial, arguments)
            rows += found
            costs.append(seconds)
            if arguments.json is not None:
                report = {
                    "accuracy": accuracy,
                    "rows": [asdict(row) for row in rows],
                    "costs": [asdict(c) for c in costs],
                }
                arguments.json.write_text(json.dumps(report, indent=1) + "\n")
        for name in dict.fromkeys(row.attack for row in rows):
            print(summary([row for row in rows if row.attack == name and row.epochs == epochs]), flush=True)
        print(cost_line([one for one in costs if one.epochs == epochs]))


if __name__ == "__main__":
    main()
