"""Networks with a variational bottleneck under every client: noise, divergence, and what attackers make of it."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.objectives import squared_distance
from gradleak.bottleneck import bottlenecks
from gradleak.clients.stateless import NOISE
from gradleak.seeds import stage_generator
from gradleak.threat import simulator
from tests.problems import images, labels, small_lenet

WIDTH, BETA = 8, 0.1
PRECODE = gl.defenses.Precode(width=WIDTH, beta=BETA)
NAME = f"linear.bottleneck.noise.{NOISE}"
Aggregate, DPSGD, Gradient, LocalSGD = gl.clients.Aggregate, gl.clients.DPSGD, gl.clients.Gradient, gl.clients.LocalSGD

Named = dict[str, Tensor]
CLIP = 0.5


def task() -> gl.Task:
    return PRECODE.change_task(small_lenet())


def gradient(parameters: Named, inputs: Tensor, targets: Tensor, noise: Tensor) -> Named:
    """Of cross-entropy and divergence with this noise, by PyTorch's own layers."""
    model = copy.deepcopy(task().model)
    assert isinstance(model, torch.nn.Sequential)
    model.load_state_dict(parameters)
    (layer,) = bottlenecks(model).values()
    mean, log_variance = layer.encoder(model[:-1](inputs)).chunk(2, dim=1)
    outputs = model.get_submodule("linear.head")(layer.decoder(mean + torch.exp(log_variance / 2) * noise))
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1).mean()
    loss = torch.nn.functional.cross_entropy(outputs, targets) + BETA * divergence
    found = torch.autograd.grad(loss, list(model.parameters()))
    return dict(zip(dict(model.named_parameters()), found, strict=True))


def start() -> Named:
    return {name: value.detach() for name, value in task().model.named_parameters()}


def clipped(inputs: Tensor, targets: Tensor, noise: Tensor) -> Named:
    total: Named = {name: torch.zeros_like(value) for name, value in start().items()}
    for at in range(len(inputs)):
        one = slice(at, at + 1)
        found = gradient(start(), inputs[one], targets[one], noise[one])
        norm = torch.cat([value.flatten() for value in found.values()]).norm()
        assert norm > CLIP  # it clips here
        for name, value in found.items():
            total[name] += CLIP / (norm + 1e-6) * value / len(inputs)
    return total


def two_steps(inputs: Tensor, targets: Tensor, noise: Tensor) -> Named:
    now = start()
    for drawn in noise.split(len(inputs)):
        found = gradient(now, inputs, targets, drawn)
        now = {name: value - 0.1 * found[name] for name, value in now.items()}
    return {name: value - start()[name] for name, value in now.items()}


def mean_of_two(inputs: Tensor, targets: Tensor, noise: Tensor) -> Named:
    one, other = (gradient(start(), inputs[part], targets[part], noise[part]) for part in (slice(0, 2), slice(2, 4)))
    return {name: (value + other[name]) / 2 for name, value in one.items()}


ByHand = Callable[[Tensor, Tensor, Tensor], Named]
CASES: list[tuple[gl.clients.Client, ByHand, int]] = [
    (DPSGD(clip=CLIP), clipped, 4),
    (LocalSGD(lr=0.1, epochs=2), two_steps, 8),
    (Aggregate([Gradient()], count=2), mean_of_two, 4),
]
NAMES = ["dp_sgd", "local_sgd", "aggregate"]


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The noise of every step from here on, in the order in which it is drawn."""
    from gradleak.clients.step import BoundStep

    kept: list[Tensor] = []
    own = BoundStep.draw

    def draw(self: BoundStep, variable: Tensor, generator: torch.Generator | None) -> Named:
        found = own(self, variable, generator)
        kept.extend([found[NAME]] if found else [])
        return found

    monkeypatch.setattr(BoundStep, "draw", draw)
    return kept


@pytest.mark.parametrize(("client", "by_hand", "rows"), CASES, ids=NAMES)
def test_what_is_sent_is_the_step_at_the_noise_that_was_drawn(
    client: gl.clients.Client, by_hand: ByHand, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = drawn(monkeypatch)
    observation, truth = gl.capture(small_lenet(), images(4), labels(4), client=client, defenses=[PRECODE])
    every = torch.cat(noise[: rows // len(noise[0])])
    assert len({tuple(row) for row in every.tolist()}) == rows  # fresh for each example and step
    expected = by_hand(truth.inputs, truth.targets, every)
    for name, value in observation.update.tensors.items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(("client", "by_hand", "rows"), CASES, ids=NAMES)
def test_an_attacker_simulates_it_without_noise_and_can_follow_its_derivative(
    client: gl.clients.Client, by_hand: ByHand, rows: int
) -> None:
    observation, truth = gl.capture(small_lenet(), images(4), labels(4), client=client, defenses=[PRECODE])
    simulate, targets = simulator(observation), observation.task.target_probabilities(truth.targets)
    expected = by_hand(truth.inputs, truth.targets, torch.zeros(rows, WIDTH, dtype=torch.float64))
    for name, value in simulate(truth.inputs, targets).items():
        torch.testing.assert_close(value, expected[name])

    def objective(variable: Tensor) -> Tensor:
        return squared_distance(simulate(variable, targets), observation.update.tensors)

    direction = torch.randn(truth.inputs.shape, generator=stage_generator(0, "direction"), dtype=torch.float64)
    variable = truth.inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(variable), variable)
    step = 1e-5 * direction
    difference = (objective(truth.inputs + step) - objective(truth.inputs - step)) / 2e-5
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("client", "count"),
    [(LocalSGD(lr=0.1), 1), (DPSGD(clip=CLIP), 1), (Aggregate([LocalSGD(lr=0.1)], count=2), 2)],
    ids=["one local step", "one clipped example", "two clients"],
)
def test_what_is_one_gradient_gives_noise_and_images_away(client: gl.clients.Client, count: int) -> None:
    observation, truth = gl.capture(small_lenet(), images(count), labels(count), client=client, defenses=[PRECODE])
    found = gl.attacks.precode_inversion(max_seconds=8)(observation)
    assert found.status == "converged", found.message
    assert min(gl.score(found, truth).psnr.tolist()) > 80


@pytest.mark.parametrize(
    ("client", "why"),
    [
        (LocalSGD(lr=0.1, epochs=2), "more than one local step"),
        (DPSGD(clip=CLIP), "the update of DPSGD is not one gradient"),
        (Aggregate([DPSGD(clip=CLIP)], count=2), "clipped its gradient by a factor of its own"),
        (DPSGD(clip=CLIP, noise_multiplier=0.1), "the update of DPSGD is not one gradient"),
    ],
    ids=["local steps", "clipped batch", "clipped clients", "noise"],
)
def test_elsewhere_the_noise_is_not_searched_and_that_is_said(client: gl.clients.Client, why: str) -> None:
    observation, _ = gl.capture(small_lenet(), images(2), labels(2), client=client, defenses=[PRECODE])
    found = gl.attacks.precode_inversion(max_seconds=1)(observation)
    assert found.status == "not_applicable"
    assert why in found.message
