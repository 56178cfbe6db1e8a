from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks import labels
from gradleak.attacks.labels.dummies import dummy_variables
from gradleak.attacks.labels.likely import likely_counts
from gradleak.seeds import stage_generator
from gradleak.tasks import Loss
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet, mlp

SPACE = gl.ImageSpace((3, 32, 32))


def photographs(count: int, seed: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    inputs, _ = load("photographs").sample(count, seed=seed)
    return inputs, torch.randint(classes, (count,), generator=stage_generator(seed, "labels"))


def observe(model: nn.Module, inputs: Tensor, targets: Tensor, loss: nn.Module | None = None) -> gl.Observation:
    task = gl.Task(model, SPACE, 10) if loss is None else gl.Task(model, SPACE, 10, loss)
    return gl.capture(task, inputs, targets)[0]


def counted(observation: gl.Observation, count: int) -> labels.LabelCounts:
    found = labels.recover_counts(observation, count)
    assert isinstance(found, labels.LabelCounts), found
    assert int(found.counts.sum()) == count
    return found


def synthetic_head(targets: Tensor, probabilities: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias gradient of a softmax head, written down from the formula."""
    residuals = probabilities - nn.functional.one_hot(targets, probabilities.shape[1])
    return residuals.T @ features / len(targets), residuals.mean(dim=0)


def test_sign_rules_of_one_example() -> None:
    probabilities = torch.tensor([[0.2, 0.5, 0.3]])
    features = torch.tensor([[1.0, 0.5, 0.0, 2.0]])
    weight, bias = synthetic_head(torch.tensor([2]), probabilities, features)
    assert labels.row_sum_sign(weight) == labels.bias_sign(bias) == 2
    assert labels.bias_sign(synthetic_head(torch.tensor([2]), probabilities, -features)[1]) == 2
    assert labels.row_sum_sign(synthetic_head(torch.tensor([2]), probabilities, -features)[0]) != 2


@pytest.mark.parametrize(
    ("estimates", "size", "expected"),
    [
        ([0.6, 1.3, -0.2], 2, [1, 1, 0]),
        ([0.9, 0.8, 0.1], 3, [1, 1, 1]),
        ([2.1, 2.9, 1.0], 3, [1, 2, 0]),
        ([0.0, 5.0, 0.0], 2, [0, 2, 0]),
        ([-4.0, 0.4, 0.5], 0, [0, 0, 0]),
    ],
)
def test_rounding_repairs_the_sum_in_both_directions(estimates: list[float], size: int, expected: list[int]) -> None:
    assert labels.round_counts(torch.tensor(estimates), size).tolist() == expected


def test_rounding_refuses_nonsense() -> None:
    with pytest.raises(gl.BadInput, match=r"batch_size: .*\n.*estimates"):
        labels.round_counts(torch.tensor([float("nan")]), -1)


def test_subtraction_takes_the_share_off_the_class_that_was_taken() -> None:
    """The released loop gives 3, 3, 3, 3, 3, 5, 9, 9 here, since it subtracts at its leftover loop variable."""
    signal = torch.zeros(10)
    signal[torch.tensor([3, 5, 9])] = torch.tensor([-3.0, -1.0, -4.0])
    assert labels.counts_by_subtraction(signal, -1.0, 8).nonzero()[:, 0].tolist() == [3, 5, 9]
    assert labels.counts_by_subtraction(signal, -1.0, 8)[[3, 5, 9]].tolist() == [3, 1, 4]


def test_published_rules_on_a_flat_softmax() -> None:
    generator = stage_generator(0, "features")
    targets = torch.tensor([3, 3, 3, 5, 9, 9, 9, 9])
    features = 1 + 0.01 * torch.rand((8, 16), generator=generator)
    probabilities = torch.full((8, 10), 0.1)
    weight, bias = synthetic_head(targets, probabilities, features)
    expected = torch.bincount(targets, minlength=10)
    assert torch.equal(labels.llg_white_box(weight, 8, features, probabilities), expected)
    assert torch.equal(labels.counts_from_mean_softmax(bias, probabilities[0], 8), expected)
    flat_weight, flat_bias = torch.zeros(10, 16), torch.zeros(10)
    assert torch.equal(labels.ilrg(weight, bias, flat_weight, flat_bias, 8), expected)
    assert labels.present_by_bias_sign(bias).tolist() == [3, 5, 9]
    for rule in (labels.llg(weight, 8), labels.bias_corrected(bias, 8)):
        assert int(rule.sum()) == 8
        assert rule[[3, 5, 9]].min() >= 1


def test_row_minimum_needs_distinct_labels() -> None:
    targets = torch.tensor([7, 0, 4])
    weight, _ = synthetic_head(targets, torch.full((3, 10), 0.1), torch.eye(3, 8) + 0.1)
    assert labels.row_minimum(weight, 3).tolist() == [0, 4, 7]
    with pytest.raises(gl.BadInput, match="without repeats"):
        labels.row_minimum(weight, 11)


@pytest.mark.parametrize("count", [8, 24])
@pytest.mark.parametrize("net", ["lenet", "mlp", "wide"])
def test_counts_with_repeats_are_exact(net: str, count: int) -> None:
    model = {
        "lenet": lenet(10, initialization="default", seed=1),
        "mlp": mlp(3072, (100,), 10, seed=1),
        "wide": lenet(10, seed=4),
    }[net]
    inputs, targets = photographs(count, seed=count)
    found = counted(observe(model, inputs, targets), count)
    assert torch.equal(found.counts, torch.bincount(targets, minlength=10))
    assert found.method == ("proof" if int(found.at_least.sum()) == count else "evidence")
    assert bool((found.at_least <= found.counts).all())
    assert torch.equal(found.labels(), targets.sort().values)


@pytest.mark.parametrize("seed", [1, 3])
def test_evidence_corrects_the_mean_softmax(seed: int) -> None:
    inputs, targets = photographs(16, seed=seed)
    observation = observe(lenet(10, seed=seed), inputs, targets)
    truth = torch.bincount(targets, minlength=10)
    outputs = observation.task.model(dummy_variables(SPACE, 768)).detach()
    mean_softmax = torch.softmax(outputs, dim=1).mean(dim=0)
    rough = labels.counts_from_mean_softmax(observation.update.tensors["linear.bias"], mean_softmax, 16)
    assert not torch.equal(rough, truth)
    assert torch.equal(counted(observation, 16).counts, truth)


def test_without_bias_and_with_features_of_both_signs() -> None:
    inputs, targets = photographs(12, seed=2)
    signed = mlp(3072, (80,), 10, activation=nn.Tanh, seed=2)
    assert torch.equal(counted(observe(signed, inputs, targets), 12).counts, torch.bincount(targets, minlength=10))
    biasless = nn.Sequential(*list(lenet(10, initialization="default", seed=2))[:-1], nn.Linear(768, 10, bias=False))
    assert torch.equal(counted(observe(biasless, inputs, targets), 12).counts, torch.bincount(targets, minlength=10))
    single = counted(observe(biasless, inputs[:1], targets[:1]), 1)
    assert single.method == "sign"
    assert single.labels().tolist() == targets[:1].tolist()


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.2),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2.0, 10)),
    ],
)
def test_other_cross_entropies_are_read_off_the_loss(loss: nn.Module) -> None:
    inputs, targets = photographs(16, seed=5)
    model = lenet(10, initialization="default", seed=5)
    soft = _double_safe(loss)
    task = gl.Task(model, SPACE, 10, soft)
    form = labels.find_loss_form(task)
    assert isinstance(form, labels.LossForm)
    assert not form.is_plain
    observation, _ = gl.capture(task, inputs, targets)
    assert torch.equal(counted(observation, 16).counts, torch.bincount(targets, minlength=10))


def _double_safe(loss: nn.Module) -> Loss:
    def evaluate(outputs: Tensor, target_probabilities: Tensor) -> Tensor:
        return loss.to(outputs.dtype)(outputs, target_probabilities)

    return evaluate


def test_losses_without_counts_are_refused_with_words() -> None:
    def squared(outputs: Tensor, target_probabilities: Tensor) -> Tensor:
        return (outputs - target_probabilities).square().mean()

    inputs, targets = photographs(4, seed=0)
    observation, _ = gl.capture(gl.Task(lenet(10), SPACE, 10, squared), inputs, targets)
    found = labels.recover_counts(observation, 4)
    assert isinstance(found, labels.NoCounts)
    assert "cross-entropy" in found.reason


def test_no_head_and_no_scale_are_refused_with_words() -> None:
    inputs, targets = photographs(4, seed=0)
    headless = observe(nn.Sequential(lenet(10), nn.Softplus()), inputs, targets)
    found = labels.recover_counts(headless, 4)
    assert isinstance(found, labels.NoCounts)
    assert "linear layer" in found.reason
    observation = observe(lenet(10), inputs, targets)
    delta = replace(observation, update=gl.Update(observation.update.tensors, "delta"), client=None)
    found = labels.recover_counts(delta, 4)
    assert isinstance(found, labels.NoCounts)
    assert "scale" in found.reason


def test_certainty_ends_with_a_defense_and_given_targets_are_counted() -> None:
    inputs, targets = photographs(4, seed=1)
    task = gl.Task(lenet(10, initialization="default"), SPACE, 10)
    noisy, _ = gl.capture(task, inputs, targets, defenses=[gl.defenses.GaussianNoise(std=1e-4)])
    assert not counted(noisy, 4).certain
    given, _ = gl.capture(task, inputs, targets, threat=gl.ThreatModel(labels_known=True))
    found = counted(given, 4)
    assert found.method == "given"
    assert torch.equal(found.counts, torch.bincount(targets, minlength=10))


@pytest.mark.parametrize(("count", "method"), [(16, "proof"), (120, "mean_softmax")])
def test_many_classes_are_proved_or_use_the_mean_softmax(count: int, method: str) -> None:
    inputs, targets = photographs(count, seed=1, classes=100)
    task = gl.Task(lenet(100, initialization="default"), SPACE, 100)
    observation, _ = gl.capture(task, inputs, targets)
    found = counted(observation, count)
    assert found.method == method
    assert torch.equal(found.counts, torch.bincount(targets, minlength=100))


def test_likely_counts_are_those_of_an_enumeration() -> None:
    generator = torch.Generator().manual_seed(3)
    estimates = torch.tensor([1.4, 0.7, 0.2, -0.1, 1.8])
    deviations = 0.2 + torch.rand(5, generator=generator)
    every = torch.cartesian_prod(*[torch.arange(5)] * 5)
    every = every[every.sum(dim=1) == 4]
    cost = ((estimates - every) / deviations).square().sum(dim=1)
    assert torch.equal(likely_counts(estimates, deviations, 4, 12), every[cost.argsort()[:12]])


def test_the_right_counts_of_many_classes_are_among_the_alternatives() -> None:
    inputs, _ = photographs(16, 0)
    right, listed = 0, 0
    for seed in range(4):
        targets = torch.randperm(100, generator=torch.Generator().manual_seed(seed))[:16]
        observation, _ = gl.capture(gl.Task(lenet(100, seed=seed), SPACE, 100), inputs, targets)
        found = counted(observation, 16)
        right += torch.equal(found.labels(), targets.sort().values)
        listed += any(torch.equal(candidate, targets.sort().values) for candidate in found.candidates())
        assert (len(found.candidates()) > 1) == (found.method != "proof")
        assert all(int(counts.sum()) == 16 for counts in found.alternatives)
    assert right >= 2
    assert listed == 4


def test_targets_of_known_inputs() -> None:
    inputs, targets = photographs(6, seed=3)
    observation = observe(lenet(10, seed=3), inputs, targets)
    assert torch.equal(labels.targets_of(observation, inputs), targets)
    turned = gl.Update({name: -2 * g for name, g in observation.update.tensors.items()}, "delta")
    assert torch.equal(labels.targets_of(replace(observation, update=turned, client=None), inputs), targets)
    given = replace(observation, targets=targets.flip(0))
    assert torch.equal(labels.targets_of(given, inputs), targets)
