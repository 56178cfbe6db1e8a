"""BatchNorm in training mode: the client equals the module's own, and what cannot be normalized is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradleak as gl
from gradleak.attacks.batch_statistics import buffer_distance
from gradleak.attacks.mismatch import mismatch
from gradleak.clients.passes import passes
from gradleak.threat import simulator
from gradleak.zoo.models.building import seeded
from tests.problems import images, labels, normed_net

SPACE = gl.ImageSpace((3, 16, 16))


class Twice(nn.Module):
    """One BatchNorm layer behind two convolutions, on maps of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.softplus(self.norm(self.one(x)))
        return self.head(nn.functional.softplus(self.norm(self.other(x))).mean(dim=(2, 3)))


def twice() -> nn.Module:
    return seeded(0, Twice).double()


def without_momentum() -> nn.Module:
    model = normed_net(nn.BatchNorm2d)
    model[1].momentum = None  # pyright: ignore[reportArgumentType]
    model[1].num_batches_tracked.fill_(3)  # pyright: ignore[reportCallIssue]
    return model


def frozen() -> nn.Module:
    model = normed_net(nn.BatchNorm2d)
    model[1].requires_grad_(False)
    return model


MODELS = {
    "plain": lambda: normed_net(nn.BatchNorm2d),
    "twice": twice,
    "momentum None": without_momentum,
    "frozen": frozen,
}


def trained(model: nn.Module, batches: list[tuple[Tensor, Tensor]], lr: float, micro: int | None) -> nn.Module:
    """A training script of its own."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    for inputs, targets in batches:
        optimizer.zero_grad()
        for part, classes in zip(inputs.split(micro or len(inputs)), targets.split(micro or len(inputs)), strict=True):
            (cross_entropy(model(part), classes) * (len(part) / len(inputs))).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_client_equals_the_modules_own_training(name: str, steps: int, micro: int | None) -> None:
    model, batch, classes, lr = MODELS[name](), images(4), labels(4), 0.3
    task = gl.Task(model, SPACE, num_classes=10)
    settings: dict[str, Any] = {"mode": "train", "send_buffers": True, "micro_batch": micro}
    client = gl.clients.LocalSGD(lr=lr, epochs=steps, shuffle=False, **settings)
    if steps == 1:
        client = gl.clients.Gradient(**settings)
    observation, truth = gl.capture(task, batch, classes, client=client)
    after = trained(model, [(batch, classes)] * steps, lr, micro)
    before = dict(model.named_parameters())
    for parameter, value in after.named_parameters():
        if not value.requires_grad:
            continue
        change = value.detach() - before[parameter].detach()
        sent = observation.update.tensors[parameter] * (-lr if steps == 1 else 1)
        torch.testing.assert_close(sent, change, rtol=1e-10, atol=1e-12)
    buffers = dict(after.named_buffers())
    assert set(observation.update.buffers) == set(buffers)
    for buffer, value in buffers.items():
        # Counters stay integers (T52).
        assert observation.update.buffers[buffer].dtype == value.dtype
        torch.testing.assert_close(observation.update.buffers[buffer], value, rtol=1e-10, atol=1e-12)
    # At the truth the simulation repeats parameters and buffers.
    sent = simulator(observation)(truth.inputs, task.target_probabilities(truth.targets))
    distance = buffer_distance(observation)
    assert distance is not None
    assert float(distance(sent)) < 1e-20
    assert mismatch(observation, truth.inputs, task.target_probabilities(truth.targets)) < 1e-20


def test_simulating_the_wrong_mode_or_no_dropout_fails_at_the_truth() -> None:
    task, batch, classes = gl.Task(normed_net(nn.BatchNorm2d, 0.3), SPACE, num_classes=10), images(4), labels(4)
    for client in (gl.clients.Gradient(mode="train", dropout="off"), gl.clients.Gradient(dropout="random")):
        observation, truth = gl.capture(task, batch, classes, client=client, threat=gl.ThreatModel(client_known=False))
        assert mismatch(observation, truth.inputs, task.target_probabilities(truth.targets)) > 1e-3


@pytest.mark.parametrize(
    ("count", "client"),
    [
        (1, gl.clients.Gradient(mode="train")),
        (4, gl.clients.Gradient(mode="train", micro_batch=1)),
        (5, gl.clients.LocalSGD(lr=0.1, batch_size=2, mode="train")),
        (3, gl.clients.Aggregate([gl.clients.Gradient(mode="train")], count=2)),
    ],
)
def test_a_single_value_a_channel_is_refused(count: int, client: gl.clients.Client) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    task = gl.Task(model, gl.TabularSpace(8), num_classes=3)
    with pytest.raises(
        gl.BadInput, match=r"expected at least two values a channel .* got one at 1, since a batch of 1"
    ):
        gl.capture(task, torch.rand(count, 8), torch.zeros(count, dtype=torch.long), client=client)
    observation, _ = gl.capture(
        task,
        torch.rand(4, 8),
        torch.zeros(4, dtype=torch.long),
        client=gl.clients.Gradient(mode="train", micro_batch=2),
    )
    assert not observation.update.is_empty


def test_passes_of_clients() -> None:
    assert passes(gl.clients.Gradient(micro_batch=2), 5) == [[2, 2, 1]]
    assert passes(gl.clients.LocalSGD(lr=0.1, epochs=2, batch_size=3), 4) == [[3, 1, 3, 1]]
    assert passes(gl.clients.Aggregate([gl.clients.Gradient()], count=2), 5) == [[3], [2]]
    assert passes(object(), 5) is None
