"""What one objective gradient costs, in training steps of the same batch, and what batching restarts saves.

    python benchmarks/cost.py --repeats 15 --json cost.json

Everything alternates in one process, one thread, float32; medians of the ratios of neighbours. The arithmetic floor
of an objective gradient is 7/3 of a training step (forward and backward; the objective's gradient runs both and their
tangents). Beside it, the other way to the same gradient: the tangent, along the residual, of the gradient by the inputs
(forward over reverse differentiation).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call, grad, jvp

import gradleak as gl
from gradleak.attacks.objectives import normalized_squared_distance
from gradleak.optim import value_and_gradient
from gradleak.seeds import stage_generator
from gradleak.threat import simulator
from gradleak.zoo.models import lenet, resnet20

Work = Callable[[], object]


def problem(name: str, count: int) -> tuple[Work, Callable[[int], Work], Work]:
    """A training step, from a number of restarts to one evaluation of all of them, and one forward over reverse."""
    model = resnet20(10) if name == "resnet20" else lenet(10)
    task = gl.Task(model.eval(), gl.ImageSpace((3, 32, 32)), num_classes=10)
    generator = stage_generator(0, "cost")
    inputs = torch.rand((count, 3, 32, 32), generator=generator)
    targets = torch.randint(10, (count,), generator=generator)
    observation, _ = gl.capture(task, inputs, targets)
    step, observed = simulator(observation), observation.update.tensors
    probabilities = task.target_probabilities(targets)

    def energy(candidate: torch.Tensor) -> torch.Tensor:
        return normalized_squared_distance(step(candidate.view(inputs.shape), probabilities), observed)

    def train() -> object:
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        return model

    def attack(restarts: int) -> Work:
        points = torch.rand((restarts, inputs.numel()), generator=generator)
        evaluate = value_and_gradient(energy)
        return lambda: evaluate(points)

    def loss(parameters: Mapping[str, torch.Tensor], candidate: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(model, {**parameters, **observation.state.constants}, (candidate,))
        return task.loss(outputs, probabilities)

    def forward_over_reverse() -> object:
        parameters, candidate = dict(observation.state.parameters), inputs.flip(0)
        gradient = grad(loss)(parameters, candidate)
        residual = {name: gradient[name] - value for name, value in observed.items()}
        return jvp(lambda moved: grad(loss, argnums=1)(moved, candidate), (parameters,), (residual,))

    return train, attack, forward_over_reverse


def seconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(above: Work, below: Work, repeats: int) -> tuple[float, float, float]:
    """Median of above / below over neighbouring pairs, and the median seconds of both."""
    above(), below()
    pairs = [(seconds(above), seconds(below)) for _ in range(repeats)]
    return (
        statistics.median(a / b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def peak(work: Work) -> int:
    """Bytes of tensors that a piece of work holds at once, from the record of every allocation."""
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    held, most = 0, 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, float] = {}
    for name, count in (("lenet", 1), ("lenet", 8), ("resnet20", 1), ("resnet20", 8)):
        train, attack, forward_over_reverse = problem(name, count)
        value, above, below = ratio(attack(1), train, arguments.repeats)
        rows[f"{name}, N = {count}: objective gradient / training step"] = value
        print(f"{name:9s} N = {count}  {value:5.2f} training steps  ({1e3 * above:.1f} ms / {1e3 * below:.1f} ms)")
        other = ratio(forward_over_reverse, train, arguments.repeats)[0]
        rows[f"{name}, N = {count}: forward over reverse / training step"] = other
        print(f"{'':16s}{other:5.2f} training steps forward over reverse")
    _, attack, _ = problem("lenet", 1)
    together, alone, restarts = attack(32), attack(1), 32
    value, above, below = ratio(together, alone, arguments.repeats)
    rows["lenet: 32 restarts together / 32 one by one"] = value / restarts
    print(f"32 restarts of lenet together: {value / restarts:.3f} of 32 runs  ({1e3 * above:.1f} ms)")
    train, attack, _ = problem("resnet20", 8)
    memory = peak(attack(1)) / peak(train)
    rows["resnet20, N = 8: peak memory of an objective gradient / of a training step"] = memory
    print(f"resnet20  N = 8  {memory:.2f} times the memory of a training step")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
