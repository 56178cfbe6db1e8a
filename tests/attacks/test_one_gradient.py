"""Updates that are one gradient in disguise."""

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.one_gradient import as_gradient
from tests.problems import images, labels, normed_net, small_lenet

LocalSGD, Gradient, Aggregate, DPSGD = gl.clients.LocalSGD, gl.clients.Gradient, gl.clients.Aggregate, gl.clients.DPSGD


@pytest.mark.parametrize(
    "client",
    [
        LocalSGD(lr=0.1),
        LocalSGD(lr=0.1, batch_size=8, momentum=0.9, dampening=0.5, weight_decay=0.01),
        LocalSGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, proximal=3.0),
        Aggregate([Gradient()], count=4),
        Aggregate([Gradient()], sizes=(1, 3), count=2, weighting="examples"),
        Aggregate([LocalSGD(lr=0.3, weight_decay=0.1)], count=2),
        Gradient(micro_batch=3),
        LocalSGD(lr=0.1, micro_batch=2),
    ],
    ids=str,
)
def test_one_step_is_taken_as_the_gradient_of_all_examples(client: gl.clients.Client) -> None:
    task, inputs, targets = small_lenet(), images(4), labels(4)
    plain, _ = gl.capture(task, inputs, targets)
    reduced = as_gradient(gl.capture(task, inputs, targets, client=client)[0])
    assert isinstance(reduced, gl.Observation)
    assert reduced.client == Gradient()
    assert reduced.update.kind == "gradient"
    for name, value in plain.update.tensors.items():
        torch.testing.assert_close(reduced.update.tensors[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("client", "why"),
    [
        (LocalSGD(lr=0.1, epochs=2), "more than one local step"),
        (LocalSGD(lr=0.1, batch_size=2), "2 local steps"),
        (gl.clients.LocalAdam(lr=0.1), "LocalAdam"),
        (Aggregate([Gradient()], sizes=(1, 3), count=2), "count alike"),
        (Aggregate([LocalSGD(lr=0.1), LocalSGD(lr=0.2)]), "differ in their settings"),
        (DPSGD(clip=1.0), "DPSGD"),
        (Aggregate([DPSGD(clip=1e-3)], count=4), "clipped its gradient by a factor of its own"),
    ],
    ids=str,
)
def test_what_is_not_one_gradient_says_why(client: gl.clients.Client, why: str) -> None:
    observation, _ = gl.capture(small_lenet(), images(4), labels(4), client=client)
    reduced = as_gradient(observation)
    assert isinstance(reduced, str)
    assert why in reduced


def test_batch_statistics_of_clients_and_micro_batches_are_not_those_of_the_whole() -> None:
    task = gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=10)
    for client in (Gradient(mode="train", micro_batch=2), Aggregate([Gradient(mode="train")], count=2)):
        reduced = as_gradient(gl.capture(task, images(4), labels(4), client=client)[0])
        assert isinstance(reduced, str)
        assert "alone" in reduced


def test_dp_sgd_of_one_unclipped_example_is_its_gradient() -> None:
    task, inputs, targets = small_lenet(), images(1), labels(1)
    plain, _ = gl.capture(task, inputs, targets)
    reduced = as_gradient(gl.capture(task, inputs, targets, client=DPSGD(clip=1e6, expected_batch_size=4))[0])
    assert isinstance(reduced, gl.Observation)
    torch.testing.assert_close(reduced.update.tensors["linear.bias"], plain.update.tensors["linear.bias"])


@pytest.mark.parametrize("labels_known", [False, True])
def test_the_last_layer_tells_how_far_one_example_was_clipped(labels_known: bool) -> None:
    task, inputs, targets = small_lenet(), images(1), labels(1)
    plain, _ = gl.capture(task, inputs, targets)
    client, threat = DPSGD(clip=1e-3, expected_batch_size=4), gl.ThreatModel(labels_known=labels_known)
    reduced = as_gradient(gl.capture(task, inputs, targets, client=client, threat=threat)[0])
    assert isinstance(reduced, gl.Observation)
    assert reduced.client == Gradient()
    for name, value in plain.update.tensors.items():
        torch.testing.assert_close(reduced.update.tensors[name], value, rtol=1e-7, atol=1e-10)


def test_a_clipped_example_with_a_soft_target_is_not_guessed() -> None:
    soft = torch.full((1, 10), 0.1, dtype=torch.float64)
    reduced = as_gradient(gl.capture(small_lenet(), images(1), soft, client=DPSGD(clip=1e-3))[0])
    assert isinstance(reduced, str)
    assert "clipped" in reduced


def test_a_delta_of_an_unknown_client_is_not_taken_for_a_gradient() -> None:
    threat = gl.ThreatModel(client_known=False)
    observation, _ = gl.capture(small_lenet(), images(1), labels(1), client=LocalSGD(lr=0.1), threat=threat)
    assert isinstance(as_gradient(observation), str)


def test_a_difference_of_weights_in_float32_is_known_to_be_coarse() -> None:
    observation, _ = gl.capture(small_lenet(torch.float32), images(1).float(), labels(1), client=LocalSGD(lr=1e-3))
    reduced = as_gradient(observation)
    assert isinstance(reduced, gl.Observation)
    exact, _ = gl.capture(small_lenet(torch.float32), images(1).float(), labels(1))
    name = "conv1.weight"
    error = (reduced.update.tensors[name] - exact.update.tensors[name]).norm() / exact.update.tensors[name].norm()
    assert 1e-6 < float(error) < reduced.update.rounding


@pytest.mark.parametrize("client", [LocalSGD(lr=0.5), Aggregate([LocalSGD(lr=0.5)])], ids=str)
def test_auto_rebuilds_one_local_step_by_algebra(client: gl.clients.Client) -> None:
    task = small_lenet(initialization="uniform")
    observation, truth = gl.capture(task, images(1), labels(1), client=client)
    found = gl.attacks.auto(max_seconds=20)(observation, seed=0)
    assert float(gl.score(found, truth).psnr[0]) > 60
    assert any("one gradient" in line for line in found.trace)
    assert found.status == "converged"
