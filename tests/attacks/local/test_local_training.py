"""The strongest attack on local training: what it finds, what it says, and what it does when memory or facts lack."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.labels import LabelCounts, NoCounts, counts_along_path, recover_counts
from gradleak.attacks.local.features import FeatureProblem, feature_problem
from gradleak.attacks.local.memory import GIGABYTE, needed_bytes, step_bytes
from gradleak.attacks.mismatch import mismatch
from gradleak.attacks.surrogate import surrogate_gradient
from gradleak.zoo.models.building import named_layers, seeded
from tests.problems import images, labels, small_lenet

SHAPE = (1, 8, 8)
CLIENT = gl.clients.LocalSGD(lr=0.005, epochs=3, batch_size=2)


def network() -> nn.Sequential:
    return seeded(
        0,
        lambda: named_layers(
            ("conv", nn.Conv2d(1, 8, 3, stride=2, padding=1)),
            ("activation1", nn.Tanh()),
            ("flatten", nn.Flatten()),
            ("hidden", nn.Linear(128, 64)),
            ("activation2", nn.Tanh()),
            ("linear", nn.Linear(64, 10)),
        ),
    )


def task() -> gl.Task:
    return gl.Task(network(), gl.ImageSpace(SHAPE), num_classes=10)


def captured(client: gl.clients.Client = CLIENT, count: int = 4, **threat: bool) -> tuple[gl.Observation, gl.Truth]:
    smooth = torch.nn.functional.interpolate(images(count, (1, 3, 3)), SHAPE[1:], mode="bilinear").float()
    return gl.capture(task(), smooth, labels(count), client=client, threat=gl.ThreatModel(**threat), seed=1)


def decibels(result: gl.Reconstruction, truth: gl.Truth) -> list[float]:
    return [float(value or 0.0) for value in gl.score(result, truth).to_dict()["psnr"]]


def test_it_finds_images_and_labels_of_six_local_steps() -> None:
    observation, truth = captured()
    result = gl.attacks.local_training()(observation, seed=0)
    assert min(decibels(result, truth)) > 19
    assert sorted(result.targets.tolist()) == sorted(labels(4).tolist())
    assert not result.targets_given
    assert result.evaluations == len(result.history.objective)
    assert any("40 evaluations of 6 local steps of 2 examples" in line for line in result.trace)
    assert result.objective == pytest.approx(mismatch(observation, result.variable, result.target_probabilities))


def test_budgets_hold_and_the_same_seed_gives_the_same_bits() -> None:
    observation, _ = captured()
    one, other = (gl.attacks.local_training(max_evaluations=150)(observation, seed=2) for _ in range(2))
    assert one.evaluations <= 150
    assert torch.equal(one.inputs, other.inputs)
    assert not torch.equal(one.inputs, gl.attacks.local_training(max_evaluations=150)(observation, seed=3).inputs)


def test_little_memory_costs_time_and_less_costs_the_simulation() -> None:
    observation, _ = captured()
    one = step_bytes(CLIENT, observation.task, observation.state, 2)
    checkpoints = needed_bytes(one, 6)["checkpoints"]
    assert checkpoints < needed_bytes(one, 6)["graph"]

    def run(gigabytes: float | None) -> gl.Reconstruction:
        return gl.attacks.local_training(
            joint_evaluations=20, simulated_evaluations=3, separation=False, max_memory_gb=gigabytes
        )(observation)

    plenty, spare, least = run(None), run(1.01 * checkpoints / GIGABYTE), run(1e-6)
    assert not any("memory" in line for line in plenty.trace)
    assert any(line.startswith("memory: the graph of 6 steps takes") for line in spare.trace)
    assert torch.allclose(plenty.inputs, spare.inputs, atol=1e-4)
    assert any(
        line.startswith("the surrogate is used instead of local steps") and "enough for 0 steps" in line
        for line in least.trace
    )
    assert least.evaluations == 20
    refused = gl.attacks.order_invariant(max_memory_gb=1e-6)(observation)
    assert refused.status == "not_applicable"
    assert "may be used, which is enough for 0 steps" in refused.message


def test_long_runs_are_not_simulated() -> None:
    observation, _ = captured(replace(CLIENT, epochs=40))
    result = gl.attacks.local_training(joint_evaluations=4, separation=False)(observation)
    assert "80 steps of 2 examples are more than 128" in result.message


def test_an_unknown_client_is_attacked_by_direction() -> None:
    observation, truth = captured(client_known=False, labels_known=True)
    result = gl.attacks.local_training()(observation, seed=0)
    assert min(decibels(result, truth)) > 15
    assert "cosine distance" in result.message


def test_aggregates_are_larger_batches_and_adam_is_refused() -> None:
    aggregate, truth = captured(gl.clients.Aggregate([replace(CLIENT, batch_size=1)], count=2), labels_known=True)
    result = gl.attacks.local_training()(aggregate, seed=0)
    assert min(decibels(result, truth)) > 15
    adam, _ = captured(gl.clients.LocalAdam(lr=1e-3, epochs=2, batch_size=2))
    assert "Adam" in gl.attacks.local_training()(adam).message


def test_features_are_combinations_of_the_singular_vectors() -> None:
    observation, _ = captured(replace(CLIENT, lr=1e-4))
    straight = surrogate_gradient(observation)
    problem = feature_problem(straight, 4)
    assert isinstance(problem, FeatureProblem)
    smooth = torch.nn.functional.interpolate(images(4, (1, 3, 3)), SHAPE[1:], mode="bilinear").float()
    with torch.no_grad():
        features = problem.trunk(smooth)
    assert torch.allclose(problem.features(features @ problem.basis.T), features, atol=1e-2)
    # In their coordinates the layers above give the very same part of the update.
    targets = observation.task.target_probabilities(labels(4))
    assert mismatch(problem.observation, features @ problem.basis.T, targets) < 1e-4


def test_networks_without_a_wide_hidden_layer_say_so() -> None:
    lenet = gl.capture(small_lenet(), images(2), labels(2), client=CLIENT)[0]
    assert feature_problem(lenet, 2) == "there is no hidden linear layer below the classifier"
    observation, _ = captured()
    assert "64 examples span all of the hidden layer hidden" in str(feature_problem(observation, 64))


@pytest.mark.parametrize("seed", range(4))
def test_label_counts_of_many_steps_have_the_sign_and_scale_of_a_gradient(seed: int) -> None:
    count, wanted = 12, labels(12, seed=seed)
    client = gl.clients.LocalSGD(lr=0.002, epochs=4, batch_size=5, momentum=0.5)
    model = small_lenet(initialization="default")
    observation, _ = gl.capture(model, images(count, seed=seed), wanted, client=client, seed=seed)
    counts = recover_counts(observation, count)
    assert isinstance(counts, LabelCounts)
    assert torch.equal(counts.counts, torch.bincount(wanted, minlength=10))
    assert not counts.certain  # a path is not quite a line
    assert int(counts.at_least.sum()) == 0


def test_counts_without_learning_rate_are_refused() -> None:
    observation, _ = captured(client_known=False)
    assert isinstance(recover_counts(observation, 4), NoCounts)


def test_counts_along_the_path_interpolate_between_its_ends() -> None:
    # Two steps, at shares 0 and 1/2 of the path, whose mean responses are at 1/4 of it.
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.softmax(torch.randn(5, generator=generator).double(), dim=0) for _ in range(2))
    truth = torch.tensor([3, 0, 1, 2, 0])
    at = [before, 0.5 * (before + after)]
    sums = sum(feature * (p - truth / 6) for feature, p in zip((2.0, 2.5), at, strict=True))
    assert isinstance(sums, torch.Tensor)
    found = counts_along_path(sums[:, None], (before, after), (2.0, 3.0), 2, 6)
    assert found.tolist() == truth.tolist()
    flipped = counts_along_path(-sums[:, None], (before, after), (2.0, 3.0), 2, 6)
    assert flipped.tolist() != truth.tolist()
