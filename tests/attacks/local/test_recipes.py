"""SME and the order-invariant attack: the papers' numbers, their parts, and what they do not apply to."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.local.door import Facts, facts_for_simulation
from gradleak.attacks.local.order_invariant import (
    CIFAR100,
    FEMNIST,
    Weights,
    aligned_mean,
    batches_of,
    invariant_distance,
    layer_distance,
    ramped,
)
from gradleak.attacks.local.sme import gradient_on_path
from gradleak.attacks.protocol import Attack
from gradleak.optim import tenfold_drops
from tests.problems import images, labels, small_lenet

CLIENT = gl.clients.LocalSGD(lr=0.01, epochs=2, batch_size=2)


def observed(client: gl.clients.Client = CLIENT, count: int = 4, **threat: bool) -> gl.Observation:
    facts = gl.ThreatModel(**{"labels_known": True, **threat})
    return gl.capture(small_lenet(), images(count), labels(count), client=client, threat=facts, seed=3)[0]


def test_sme_has_the_published_numbers() -> None:
    attack = gl.attacks.sme()
    assert (attack.steps, attack.lr, attack.alpha_lr, attack.total_variation_weight) == (1000, 1.0, 1e-3, 0.01)
    # One learning rate serves both: alpha is searched in units in which 1 is its own.
    variable, alpha = attack.unpack(torch.cat([torch.zeros(12), torch.tensor([500.0])]), (1, 3, 2, 2))
    assert variable.shape == (1, 3, 2, 2)
    assert float(alpha) == 0.5
    assert [tenfold_drops(1.0, step, 1000) for step in (0, 375, 625, 876)] == pytest.approx([1, 0.1, 0.01, 0.001])


def test_sme_keeps_alpha_in_its_bounds_and_moves_it_as_adam_would() -> None:
    observation = observed(lr_free(), client_known=False)
    attack = gl.attacks.sme(max_evaluations=2)
    low, high = attack.box(observation, (4, 3, 16, 16))
    assert (float(low[-1]), float(high[-1])) == (0.0, 1000.0)
    result = attack(observation)
    alpha = float(result.message.split("alpha ")[1].split()[0])
    assert alpha == pytest.approx(0.5, abs=1.1e-3)


def lr_free() -> gl.clients.LocalSGD:
    return replace(CLIENT, lr=0.003)


def test_the_gradient_on_the_path_depends_on_alpha() -> None:
    observation = observed()
    gradient = gradient_on_path(observation)
    targets = observation.task.target_probabilities(labels(4))
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    total = sum(tensor.square().sum() for tensor in gradient(alpha, images(4), targets).values())
    assert isinstance(total, torch.Tensor)
    (slope,) = torch.autograd.grad(total, alpha)
    values = [
        float(
            sum(t.square().sum() for t in gradient(torch.tensor(at, dtype=torch.float64), images(4), targets).values())
        )
        for at in (0.3 - 1e-5, 0.3 + 1e-5)
    ]
    assert float(slope) == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-4)


def test_sme_goes_towards_the_images_and_not_away_from_them() -> None:
    # With the wrong sign of the delta the objective would start near 2 and end near the negative.
    observation, truth = gl.capture(
        small_lenet(), images(1), labels(1), client=lr_free(), threat=gl.ThreatModel(labels_known=True), seed=0
    )
    result = gl.attacks.sme(max_evaluations=250, total_variation_weight=0.0)(replace(observation, client=None))
    correlation = gl.score(result, truth).to_dict()["correlation"][0]
    assert correlation is not None
    assert float(correlation) > 0.3
    assert result.objective < 0.5
    assert "cosine distance" in result.message


def test_the_order_invariant_attack_has_the_published_numbers() -> None:
    assert Weights("pixel_mean", 1000.0, 1e-3, 2.0, 1.0, 0.4, 0.995, 10) == FEMNIST
    assert Weights("feature_max", 6.075, 2e-4, 10.0, 4.0, 0.1, 0.997, 20) == CIFAR100
    attack = gl.attacks.order_invariant(preset="femnist")
    optimizer = attack.optimizer(None)
    assert (attack.steps, optimizer.steps, optimizer.lr) == (400, 400, 0.4)
    assert optimizer.schedule(0.4, 25, 400) == pytest.approx(0.4 * 0.995**2)


def test_layers_count_less_and_less_from_the_first_on() -> None:
    zeros = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}
    for place, name in enumerate(zeros):
        one = {**zeros, name: torch.tensor([0.2, 0.0])}
        assert float(layer_distance(one, zeros, lr=0.1)) == pytest.approx(4 * math.exp(-place))


def test_the_factor_of_the_distance_runs_to_two_and_the_value_is_that_of_the_end() -> None:
    evaluate = ramped(lambda point: point.square().sum(), lambda point: point.sum(), 1.0)
    point = torch.tensor([[3.0]])
    first_value, first = evaluate(point)
    for _ in range(199):
        evaluate(point)
    last_value, last = evaluate(point)
    assert (float(first), float(last)) == pytest.approx((1 * 6 + 1, 2 * 6 + 1))
    assert float(first_value) == float(last_value) == 2 * 9 + 3


@pytest.mark.parametrize("features", [None, torch.square], ids=["mean", "maximum"])
def test_the_invariant_does_not_see_the_order_of_an_epoch(features: Callable[[Tensor], Tensor] | None) -> None:
    first = images(4)
    copies = torch.stack([first, first[[2, 0, 3, 1]]])
    assert float(invariant_distance(copies, features)) < 1e-12
    assert float(invariant_distance(torch.stack([first, images(4, seed=1)]), features)) > 0.01
    assert float(invariant_distance(copies[:1], features)) == 0


def test_epochs_are_aligned_before_they_are_averaged() -> None:
    first = images(4)
    assert torch.allclose(aligned_mean(torch.stack([first, first[[1, 2, 0, 3]], first[[3, 0, 1, 2]]])), first)


def test_the_simulation_reproduces_the_update_when_every_copy_is_in_its_true_order() -> None:
    observation = observed(order_known=True)
    facts = facts_for_simulation(observation, None)
    assert isinstance(facts, Facts)
    client = observation.client
    assert isinstance(client, gl.clients.LocalSGD)
    assert client.order is not None
    orders = [list(epoch) for epoch in client.order]
    copies, classes = torch.stack([images(4)[order] for order in orders]), labels(4)
    targets = observation.task.target_probabilities(classes)
    batches = [
        batch
        for copy, order in zip(copies, orders, strict=True)
        for batch in batches_of(copy[None], targets[order], facts.slices)
    ]
    assert float(layer_distance(facts.simulate(batches), observation.update.tensors, client.lr)) < 1e-18


def test_one_run_says_what_an_evaluation_costs() -> None:
    result = gl.attacks.order_invariant(max_evaluations=6)(observed())
    assert result.evaluations == 6
    assert len(result.history.objective) == 6
    assert "simulates 4 local steps of 2 examples" in result.message
    assert result.inputs.shape == (4, 3, 16, 16)
    again = gl.attacks.order_invariant(max_evaluations=6)(observed())
    assert torch.equal(result.inputs, again.inputs)


@pytest.mark.parametrize("make", [gl.attacks.sme, gl.attacks.order_invariant, gl.attacks.local_training])
def test_missing_facts_are_said(make: Callable[[], Attack]) -> None:
    unknown_size = make()(observed(batch_size_known=False, labels_known=False))
    assert unknown_size.status == "not_applicable"
    assert "batch size" in unknown_size.message
    gradient = make()(observed(gl.clients.Gradient()))
    assert gradient.status == "not_applicable"
    observation = observed()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in observation.update.tensors.items()}
    empty = make()(replace(observation, update=replace(observation.update, tensors=zeros)))
    assert "no evidence" in empty.message
    unlabeled = make()(observed(client_known=False, labels_known=False))
    assert unlabeled.status == "not_applicable"


def test_adam_and_unknown_clients_get_a_reason_or_the_attack_that_fits() -> None:
    adam = observed(gl.clients.LocalAdam(lr=1e-3, epochs=2, batch_size=2))
    assert "Adam" in gl.attacks.sme()(adam).message
    assert gl.attacks.order_invariant(max_evaluations=2)(adam).status == "budget"
    unknown = observed(client_known=False)
    assert "withheld" in gl.attacks.order_invariant()(unknown).message
    assert gl.attacks.sme(max_evaluations=2)(unknown).status == "budget"
