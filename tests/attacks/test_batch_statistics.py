"""Batch statistics from sent buffers, and the terms that use them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks import batch_norm_inversion
from gradleak.attacks.batch_statistics import (
    BatchStatistics,
    StatisticsPrior,
    buffer_distance,
    estimated_statistics,
    given_statistics,
    inferred_statistics,
    running_statistics,
)
from gradleak.attacks.inversion import Inversion
from gradleak.attacks.layout import Layout
from gradleak.attacks.objectives import cosine_distance
from gradleak.optim import WolfeLBFGS
from gradleak.threat import simulator
from tests.clients.test_batch_norm import MODELS, SPACE
from tests.problems import images, labels, normed_net


def observed(model: nn.Module, count: int = 3, **settings: Any) -> tuple[gl.Observation, Tensor]:
    task = gl.Task(model, SPACE, num_classes=10)
    chosen: dict[str, Any] = {"mode": "train", "send_buffers": True, **settings}
    client = chosen.pop("client", None) or gl.clients.Gradient(**chosen)
    observation, truth = gl.capture(task, images(count), labels(count), client=client)
    return observation, truth.inputs


def entering(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance behind the first convolution."""
    maps = model[0](inputs).detach().transpose(0, 1).flatten(1)  # pyright: ignore[reportIndexIssue]
    return maps.mean(dim=1), maps.var(dim=1, correction=0)


@pytest.mark.parametrize("name", ["plain", "momentum None", "frozen"])
@pytest.mark.parametrize("count", [1, 3])
def test_one_step_is_inferred_exactly(name: str, count: int) -> None:
    model = MODELS[name]()
    observation, inputs = observed(model, count)
    found = inferred_statistics(observation)
    assert isinstance(found, BatchStatistics)
    mean, variance = entering(model, inputs)
    torch.testing.assert_close(found.means["1"], mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.variances["1"], variance, rtol=1e-10, atol=1e-12)
    assert found.exact
    assert "exact" in found.describe()
    running = running_statistics(observation)
    assert isinstance(running, BatchStatistics)
    # Running statistics are no batch statistics (T50).
    assert float((running.means["1"] - mean).norm() / mean.norm()) > 0.1


def test_several_batches_are_a_geometric_mixture() -> None:
    model = normed_net(nn.BatchNorm2d)
    observation, inputs = observed(model, 4, micro_batch=2)
    found = inferred_statistics(observation)
    assert isinstance(found, BatchStatistics)
    parts = [entering(model, part) for part in inputs.split(2)]
    weights = torch.tensor([0.09, 0.1], dtype=torch.float64) / 0.19
    for value, place in ((found.means["1"], 0), (found.variances["1"], 1)):
        torch.testing.assert_close(value, sum(w * part[place] for w, part in zip(weights, parts, strict=True)))
    assert not found.exact
    assert "mixture of 2" in found.describe()
    steps = observed(model, 4, client=gl.clients.LocalSGD(lr=0.1, epochs=3, mode="train", send_buffers=True))[0]
    several = inferred_statistics(steps)
    assert isinstance(several, BatchStatistics)
    assert several.batches == 3


def test_no_statistics_without_buffers() -> None:
    observation, _ = observed(normed_net(nn.BatchNorm2d), send_buffers=False)
    assert inferred_statistics(observation) == "the client sent no buffers"
    with pytest.raises(gl.BadInput, match="sent no buffers"):
        StatisticsPrior()(observation)
    assert buffer_distance(observation) is None
    plain, _ = observed(normed_net(nn.Identity), send_buffers=False, mode="eval")
    for source in (inferred_statistics, running_statistics, estimated_statistics(images(2))):
        assert source(plain) == "the model has no BatchNorm with running statistics"


@pytest.mark.parametrize("distance", ["relative", "plain"])
@pytest.mark.parametrize("name", ["plain", "momentum None"])
def test_terms_are_zero_at_the_truth_only(name: str, distance: Any) -> None:
    observation, inputs = observed(MODELS[name]())
    term = StatisticsPrior(distance=distance, first_weight=10.0)(observation)
    targets = torch.full((3, 10), 0.1, dtype=torch.float64)
    # Norms that are not squared keep the root of the rounding.
    assert float(term(inputs, targets)) < 1e-10
    other = images(3, seed=5).requires_grad_()
    value = term(other, targets)
    assert float(value.detach()) > 1e-3
    assert bool(torch.autograd.grad(value, other)[0].any())
    buffers, step = buffer_distance(observation), simulator(observation)
    assert buffers is not None
    assert float(buffers(step(inputs, targets)).detach()) < 1e-20
    assert float(buffers(step(other, targets)).detach()) > 1e-4


def test_policies_stand_in_the_message() -> None:
    observation, inputs = observed(normed_net(nn.BatchNorm2d))
    mean, variance = entering(observation.task.model, inputs)
    given = given_statistics({"1": mean}, {"1": variance})
    made = [
        (batch_norm_inversion(max_evaluations=3), "inferred from sent buffers, exact"),
        (batch_norm_inversion(policy="running", max_evaluations=3), "running ones stand in"),
        (
            batch_norm_inversion(policy="estimated", source=estimated_statistics(images(3, seed=9)), max_evaluations=3),
            "estimated",
        ),
        (batch_norm_inversion(policy="given", source=given, max_evaluations=3), "an oracle"),
        (batch_norm_inversion(policy=None, max_evaluations=3), "none used"),
    ]
    known = gl.ThreatModel(labels_known=True)
    observation, _ = gl.capture(
        observation.task, inputs, labels(3), client=gl.clients.Gradient(mode="train", send_buffers=True), threat=known
    )
    for attack, words in made:
        result = attack(observation)
        assert words in result.message
        assert words in result.trace[0]
        assert result.evaluations <= 3
    with pytest.raises(gl.BadInput, match="expected one for policy 'estimated'"):
        batch_norm_inversion(policy="estimated")


@pytest.mark.parametrize("name", MODELS)
def test_objective_with_buffers_is_zero_at_the_truth(name: str) -> None:
    observation, inputs = observed(MODELS[name]())
    targets = observation.task.target_probabilities(labels(3))
    attack = Inversion(
        "test", cosine_distance, lambda _count: WolfeLBFGS(), "joint", buffer_weight=2.0, max_evaluations=5
    )
    layout = Layout.of(observation, 3, targets)
    energy = attack.energy(observation, layout)
    assert float(energy(layout.pack(inputs, targets[:, :0]))) < 1e-20
    other = layout.pack(images(3, seed=7), targets[:, :0])
    without = replace(attack, buffer_weight=0.0).energy(observation, layout)
    assert float(energy(other)) > float(without(other)) + 1e-3
    assert attack(observation).evaluations <= 5


def test_sent_statistics_help() -> None:
    model = normed_net(nn.BatchNorm2d)
    task = gl.Task(model, SPACE, num_classes=10)
    client, known = gl.clients.Gradient(mode="train", send_buffers=True), gl.ThreatModel(labels_known=True)
    gaps: list[float] = []
    for policy in ("inferred", None):
        observation, truth = gl.capture(task, images(2), labels(2), client=client, threat=known)
        found = batch_norm_inversion(policy=policy, max_evaluations=150)(observation)
        step = simulator(observation)
        distance = buffer_distance(observation)
        assert distance is not None
        gaps.append(float(distance(step(found.variable, task.target_probabilities(truth.targets)))))
    assert gaps[0] < 0.1 * gaps[1]
