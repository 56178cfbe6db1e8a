"""The portfolio: what it tries, when it stops, and that it repeats itself to the bit."""

import sys
import time

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet, mlp
from tests.problems import images, labels, normed_net, small_lenet


def captured(model: nn.Module, count: int = 1, seed: int = 0) -> tuple[gl.Observation, gl.Truth]:
    inputs, targets = load("photographs").sample(count, seed=seed)
    return gl.capture(gl.Task(model, gl.ImageSpace((3, 32, 32)), num_classes=10), inputs, targets)


@pytest.mark.parametrize("initialization", ["uniform", "default"])
def test_smooth_lenet_is_solved_by_algebra(initialization: str) -> None:
    observation, truth = captured(lenet(10, initialization=initialization))  # pyright: ignore[reportArgumentType]
    result = gl.attacks.auto()(observation)
    scores = gl.score(result, truth)
    assert result.attack == "auto"
    assert "by layer_recursion" in result.message
    assert scores.median("psnr") > 75
    assert scores.to_dict()["target_correct"] == [True]


def test_trace_tells_what_was_tried_and_why_it_stopped() -> None:
    observation, _ = captured(mlp(3072, (400,), 10), count=8)
    trace = gl.attacks.auto()(observation).trace
    assert trace[0].startswith("linear_layer: does not apply")
    assert any(line.startswith("spear: 8 examples separated") for line in trace)
    assert trace[-1] == "stopped: algebra determines the answer"


def test_closed_forms_can_be_left_out() -> None:
    observation, truth = gl.capture(small_lenet(initialization="default"), images(1), labels(1))
    result = gl.attacks.auto(closed_forms=False, max_seconds=10, max_evaluations=600)(observation)
    assert "by staged" in result.message
    assert not any("layer_recursion" in line for line in result.trace)
    assert gl.score(result, truth).median("psnr") > 30


def test_same_bits_for_a_seed_and_an_evaluation_budget() -> None:
    observation, _ = gl.capture(small_lenet(activation=nn.ReLU), images(1), labels(1))
    attack = gl.attacks.auto(closed_forms=False, max_seconds=None, max_evaluations=60)
    one, two = attack(observation, seed=5), attack(observation, seed=5)
    assert torch.equal(one.variable, two.variable)
    assert one.objective == two.objective
    assert one.evaluations == two.evaluations <= 60


def test_time_limit_holds() -> None:
    observation, _ = gl.capture(small_lenet(activation=nn.ReLU), images(1), labels(1))
    began = time.perf_counter()
    gl.attacks.auto(closed_forms=False, max_seconds=2.0)(observation)
    assert time.perf_counter() - began < 2.0 * 1.1 + 2.0  # with slack for a busy machine


def test_objective_is_the_relative_squared_error_of_what_is_returned() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    result = gl.attacks.auto()(observation)
    assert observation.client is not None
    simulated = observation.client.bind(observation.task, observation.state)(
        result.variable, result.target_probabilities
    )
    difference = sum(float((simulated[n] - t).square().sum()) for n, t in observation.update.tensors.items())
    assert result.objective == pytest.approx(difference / observation.update.squared_norm(), rel=1e-6, abs=1e-25)


def test_withheld_batch_size_is_recovered_and_said() -> None:
    inputs, targets = load("photographs").sample(3, seed=2)
    task = gl.Task(mlp(3072, (400,), 10), gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, truth = gl.capture(task, inputs, targets, threat=gl.ThreatModel(batch_size_known=False))
    result = gl.attacks.auto()(observation)
    assert result.trace[0].startswith("batch size 3 from the rank of ")
    assert min(gl.score(result, truth).to_dict()["psnr"]) > 100  # pyright: ignore[reportArgumentType]


def test_a_defended_update_is_searched_too() -> None:
    noise = gl.defenses.GaussianNoise(std=1e-4)
    observation, _ = gl.capture(small_lenet(initialization="uniform"), images(1), labels(1), defenses=[noise])
    result = gl.attacks.auto(max_seconds=None, max_evaluations=900)(observation)
    assert any(line.startswith("maximum_a_posteriori: ") for line in result.trace)


def test_zero_update_is_no_evidence() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    for value in observation.update.tensors.values():
        value.zero_()
    result = gl.attacks.auto()(observation)
    assert result.status == "not_applicable"
    assert "no evidence" in result.message


def test_nothing_applies_says_why() -> None:
    delta = gl.capture(small_lenet(), images(2), labels(2))[0]
    unknown = gl.Observation(
        delta.task,
        delta.state,
        gl.Update(delta.update.tensors, "delta"),
        gl.ThreatModel(client_known=False),
        batch_size=2,
    )
    result = gl.attacks.auto(max_seconds=5)(unknown)
    assert result.status == "not_applicable"
    assert "weight delta" in result.message


def test_local_steps_are_searched_by_their_surrogate_and_then_themselves_where_that_is_cheap() -> None:
    task, inputs, targets = small_lenet(initialization="uniform"), images(2), labels(2)

    def trace(epochs: int) -> tuple[str, ...]:
        client = gl.clients.LocalSGD(lr=0.01, epochs=epochs, batch_size=1)
        observation, _ = gl.capture(task, inputs, targets, client=client)
        return gl.attacks.auto(max_evaluations=60, restarts=1)(observation, seed=0).trace

    cheap, costly = trace(2), trace(100)
    assert any(line.startswith("local_training: ") for line in cheap)
    assert any(line.startswith("staged: ") for line in cheap) or "stopped: the budget is spent" in cheap
    assert any(line.startswith("local_training: ") for line in costly)
    assert any("too costly" in line for line in costly)


def test_random_dropout_is_searched_with_its_masks() -> None:
    task = gl.Task(normed_net(nn.Identity, 0.3), gl.ImageSpace((3, 16, 16)), num_classes=10)
    client = gl.clients.Gradient(dropout="random")
    observation, _ = gl.capture(task, images(1), labels(1), client=client)
    found = gl.attacks.auto(max_seconds=4)(observation, seed=0)
    assert any("dropout masks" in line for line in found.trace)


def test_batch_statistics_are_used_in_training_mode() -> None:
    task = gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=10)
    for sent in (False, True):
        client = gl.clients.Gradient(mode="train", send_buffers=sent)
        observation, _ = gl.capture(task, images(3), labels(3), client=client)
        found = gl.attacks.auto(max_evaluations=40)(observation, seed=0)
        assert any(line.startswith("batch_norm_inversion: ") for line in found.trace)


def test_an_attack_whose_equations_cannot_be_factored_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> gl.attacks.Attack:
        def attack(*_: object, **__: object) -> gl.Reconstruction:
            torch.linalg.cholesky(-torch.eye(2))
            raise AssertionError

        return attack  # pyright: ignore[reportReturnType]

    monkeypatch.setattr(sys.modules["gradleak.attacks.auto"], "CLOSED_FORMS", (fails, gl.attacks.layer_recursion))
    observation, _ = captured(lenet(10))
    found = gl.attacks.auto(max_seconds=30)(observation)
    assert found.status == "converged"
    assert "its equations cannot be factored: linalg.cholesky" in found.trace[0]


@pytest.mark.parametrize(("std", "status"), [(1e-6, "budget"), (100.0, "converged")])
def test_behind_kinks_too_an_update_is_explained_once_only_noise_is_left(std: float, status: str) -> None:
    task = gl.Task(lenet(10, activation=nn.ReLU), gl.ImageSpace((3, 32, 32)), num_classes=10)
    inputs, targets = load("photographs").sample(1, seed=0)
    observation, _ = gl.capture(task, inputs, targets, defenses=[gl.defenses.GaussianNoise(std)])
    found = gl.attacks.auto(max_evaluations=8)(observation)
    assert found.status == status
    assert ("no more than the noise leaves" in found.message) == (status == "converged")
