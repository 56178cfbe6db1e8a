"""What a classifier's gradient proves about labels, and counts at networks whose predictions depend on the input."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks import labels
from gradleak.attacks.labels.bounds import fewest_of_each
from gradleak.attacks.labels.dummies import dummy_variables
from gradleak.attacks.labels.evidence import HeadGradient
from gradleak.attacks.labels.trained import blended_counts, is_trained
from gradleak.seeds import stage_generator
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet, mlp

SPACE = gl.ImageSpace((3, 32, 32))
PLAIN = labels.LossForm(torch.ones(10).double(), torch.eye(10).double(), averaged=True)


def head(seed: int, count: int, *, sharpness: float, signed: bool = False) -> tuple[HeadGradient, Tensor]:
    """A random classifier with its gradient, and the true counts; predictions are mostly right if sharp."""
    generator = stage_generator(seed, "head")
    features = torch.rand((count, 24), generator=generator, dtype=torch.float64) - 0.5 * signed
    weight = torch.randn((10, 24), generator=generator, dtype=torch.float64)
    targets = torch.randint(10, (count,), generator=generator)
    hot = nn.functional.one_hot(targets, 10).double()
    logits = features @ weight.T + sharpness * hot
    residuals = torch.softmax(logits, dim=1) - hot
    view = HeadGradient(residuals.T @ features / count, residuals.mean(dim=0), weight, torch.zeros(10).double())
    return view, torch.bincount(targets, minlength=10)


@pytest.mark.parametrize("sharpness", [0.0, 5.0, 20.0])
@pytest.mark.parametrize("count", [4, 40])
def test_no_class_occurs_less_often_than_proved(count: int, sharpness: float) -> None:
    proved = 0
    for seed in range(20):
        view, truth = head(seed, count, sharpness=sharpness)
        fewest = fewest_of_each(view, PLAIN, count, rounding=1e-15, nonnegative_features=True)
        assert bool((fewest <= truth).all())
        proved += int(fewest.sum())
    # Of confident examples less is left: at sharpness 20 their residuals are about 1e-7.
    share = {0.0: 0.2, 5.0: 0.2, 20.0: 0.1}[sharpness]
    assert proved > 20 * count * share


def test_rows_prove_nothing_where_features_have_both_signs() -> None:
    wrong = 0
    for seed in range(20):
        view, truth = head(seed, 12, sharpness=0.0, signed=True)
        wrong += bool((fewest_of_each(view, PLAIN, 12, rounding=1e-15, nonnegative_features=True) > truth).any())
        assert bool((fewest_of_each(view, PLAIN, 12, rounding=1e-15, nonnegative_features=False) <= truth).all())
    assert wrong > 2


def test_smoothed_or_mixed_labels_are_not_proved() -> None:
    view, _ = head(0, 8, sharpness=0.0)
    smoothed = replace(PLAIN, targets=0.9 * PLAIN.targets + 0.01)
    assert not fewest_of_each(view, smoothed, 8, rounding=1e-15, nonnegative_features=True).any()
    # Mixtures of two labels each leave more classes than examples.
    mixed = replace(view, bias_gradient=torch.full((10,), -0.05).double())
    assert not fewest_of_each(mixed, PLAIN, 4, rounding=1e-15, nonnegative_features=False).any()


def test_class_weights_scale_the_proof() -> None:
    weights = torch.full((10,), 2.0).double()
    view, truth = head(1, 8, sharpness=0.0)
    assert view.bias_gradient is not None
    heavier = replace(view, bias_gradient=2 * view.bias_gradient, weight_gradient=2 * view.weight_gradient)
    once = fewest_of_each(view, PLAIN, 8, rounding=1e-15, nonnegative_features=True)
    twice = fewest_of_each(heavier, replace(PLAIN, weights=weights), 8, rounding=1e-15, nonnegative_features=True)
    assert torch.equal(once, twice)
    assert bool((twice <= truth).all())


def fitted(seed: int) -> nn.Sequential:
    """A network that has learned its images, so that its predictions depend on the input."""
    data, model = load("photographs"), mlp(3072, (40,), 10, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.inputs), data.targets).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("seed", range(4))
def test_untrained_networks_are_told_from_trained_ones(seed: int) -> None:
    dummies = dummy_variables(SPACE, 256)
    trained = fitted(seed)
    with torch.no_grad():
        assert not is_trained(lenet(10, seed=seed)(dummies))
        assert not is_trained(lenet(10, initialization="default", seed=seed)(dummies))
        assert not is_trained(mlp(3072, (40,), 10, seed=seed)(dummies))
        assert is_trained(trained(dummies))


def test_counts_at_a_trained_network_are_never_certain_and_wrong() -> None:
    model, data = fitted(0), load("photographs")
    task = gl.Task(model, SPACE, 10)
    for count in (4, 8, 24):
        inputs, targets = data.sample(count, seed=count)
        found = labels.recover_counts(gl.capture(task, inputs, targets)[0], count)
        assert isinstance(found, labels.LabelCounts)
        truth = torch.bincount(targets, minlength=10)
        assert int(found.counts.sum()) == count
        assert bool((found.at_least <= truth).all())
        assert bool((found.at_least <= found.counts).all())
        assert not found.certain or torch.equal(found.counts, truth)


def test_a_blend_believes_dummies_only_where_they_agree() -> None:
    missing = torch.tensor([2.0, 0, 0, 0]).double()
    alike, weight = blended_counts(torch.tensor([3.0, 1, 2, 2]).double(), missing, 8)
    assert weight > 0.9
    assert float((alike - torch.tensor([3.0, 1, 2, 2])).abs().max()) < 0.1
    foreign, weight = blended_counts(torch.tensor([-20.0, 1, 2, 25]).double(), missing, 8)
    assert weight < 0.01
    assert float((foreign - torch.tensor([3.5, 1.5, 1.5, 1.5])).abs().max()) < 0.2
    assert float(foreign.sum()) == pytest.approx(8)


def test_nothing_is_proved_by_a_defended_update_or_an_unknown_client() -> None:
    inputs, targets = load("photographs").sample(4, seed=0)
    task = gl.Task(lenet(10, initialization="default"), SPACE, 10)
    plain, _ = gl.capture(task, inputs, targets)
    noisy, _ = gl.capture(task, inputs, targets, defenses=[gl.defenses.GaussianNoise(std=1e-6)])
    for observation, proved in ((plain, 4), (noisy, 0), (replace(plain, client=None), 0)):
        found = labels.recover_counts(observation, 4)
        assert isinstance(found, labels.LabelCounts)
        assert int(found.at_least.sum()) == proved


def test_batch_statistics_of_the_client_are_used() -> None:
    """In training mode the gradient is made with the batch's own statistics, and dummies are run the same way."""
    model = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.Sigmoid(), nn.Flatten(), nn.Linear(392, 10))
    nn.init.constant_(model[1].running_mean, 3.0)  # pyright: ignore[reportArgumentType]  # far from any batch's
    inputs, targets = load("photographs").sample(12, seed=4)
    client = gl.clients.Gradient(mode="train")
    found = labels.recover_counts(gl.capture(gl.Task(model, SPACE, 10), inputs, targets, client=client)[0], 12)
    assert isinstance(found, labels.LabelCounts)
    assert torch.equal(found.counts, torch.bincount(targets, minlength=10))


def test_an_update_of_zeros_has_no_counts() -> None:
    inputs, targets = load("photographs").sample(4, seed=0)
    observation, _ = gl.capture(gl.Task(lenet(10), SPACE, 10), inputs, targets)
    zeros = gl.Update({name: torch.zeros_like(value) for name, value in observation.update.tensors.items()})
    found = labels.recover_counts(replace(observation, update=zeros), 4)
    assert isinstance(found, labels.NoCounts)
    assert "no evidence" in found.reason


def test_rules_leave_their_arguments_alone() -> None:
    view, _ = head(0, 6, sharpness=0.0)
    weight, bias = view.weight_gradient, view.bias_gradient
    assert bias is not None
    before = [tensor.clone() for tensor in (weight, bias, view.weight)]
    features = torch.rand(5, 24).double()
    labels.llg(weight, 6)
    labels.llg_white_box(weight, 6, features, torch.softmax(features @ view.weight.T, dim=1))
    labels.bias_corrected(bias, 6)
    labels.ilrg(weight, bias, view.weight, view.bias, 6)
    labels.row_minimum(weight, 6)
    assert all(torch.equal(one, other) for one, other in zip(before, (weight, bias, view.weight), strict=True))
