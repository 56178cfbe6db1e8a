from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.labels import BatchSize, NoBatchSize, recover_batch_size
from gradleak.zoo.models import lenet, mlp
from gradleak.zoo.models.building import seeded
from tests.problems import TinyTransformer, images, labels

SPACE = gl.ImageSpace((3, 16, 16))
UNKNOWN = gl.ThreatModel(batch_size_known=False)


def observe(model: nn.Module, count: int, targets: Tensor | None = None, classes: int = 10) -> gl.Observation:
    task = gl.Task(model, SPACE, num_classes=classes)
    chosen = labels(count, classes) if targets is None else targets
    return gl.capture(task, images(count).to(task.dtype), chosen, threat=UNKNOWN)[0]


def size_of(observation: gl.Observation) -> BatchSize:
    found = recover_batch_size(observation)
    assert isinstance(found, BatchSize)
    return found


@pytest.mark.parametrize("count", [1, 2, 5])
def test_classifier_of_a_convolutional_net_counts_small_batches(count: int) -> None:
    assert size_of(observe(lenet(10, input_size=16).double(), count)) == BatchSize(count, True, "linear.weight", 10)


@pytest.mark.parametrize("count", [9, 10, 14])
def test_classifier_is_never_certain_at_its_limit_of_one_below_the_classes(count: int) -> None:
    # Its rows sum to zero: rank 9 is below the shape's limit of 10, and still says only "9 or more".
    assert size_of(observe(lenet(10, input_size=16).double(), count)) == BatchSize(9, False, "linear.weight", 10)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 14])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_layer_counts_beyond_the_classes(count: int, dtype: torch.dtype) -> None:
    found = size_of(observe(mlp(768, (60,), 10, activation=nn.Tanh).to(dtype), count))
    assert found == BatchSize(count, True, "linear1.weight", 60)


def test_a_full_wide_layer_is_a_lower_bound() -> None:
    found = size_of(observe(mlp(768, (12,), 10, activation=nn.Tanh).double(), 20))
    assert (found.size, found.certain) == (12, False)


def test_bottleneck_below_its_shape_is_not_taken_for_a_batch() -> None:
    # Without activations, every derivative lies in the 2 dimensions of the classifier's.
    linear = nn.Sequential(nn.Flatten(), nn.Linear(768, 30), nn.Linear(30, 3)).double()
    found = size_of(observe(linear, 8, classes=3))
    assert (found.size, found.certain) == (2, False)


def test_examples_that_merge_below_the_rounding_are_not_counted_as_certain() -> None:
    # A saturated network: same class, hardly different features.
    model = lenet(10, input_size=16, initialization="default")
    found = size_of(observe(model, 4, torch.tensor([1, 1, 5, 7])))
    assert found.size <= 4
    assert not found.certain


def test_given_size_wins_and_defended_or_unknown_deltas_are_never_certain() -> None:
    observation = observe(mlp(768, (60,), 10).double(), 3)
    assert recover_batch_size(replace(observation, batch_size=7)) == BatchSize(7, True, None, 7)
    delta = gl.Update({name: -0.1 * value for name, value in observation.update.tensors.items()}, "delta")
    for changed in (
        replace(observation, update=delta, client=None),
        replace(observation, defenses=(gl.defenses.GaussianNoise(std=1e-30),)),
    ):
        found = size_of(changed)
        assert (found.size, found.certain) == (3, False)
    noisy = {name: value + 1e-3 * torch.randn_like(value) for name, value in observation.update.tensors.items()}
    assert not size_of(replace(observation, update=gl.Update(noisy))).certain


def test_convolutions_tokens_and_empty_updates_are_refused_with_the_reason() -> None:
    convolutions = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 10, 14), nn.Flatten()).double()
    refused = recover_batch_size(observe(convolutions, 2))
    assert isinstance(refused, NoBatchSize)
    assert "2 convolutions are not usable" in refused.reason
    # Of a transformer, only the classifier receives one row for each example.
    found = size_of(observe(seeded(0, TinyTransformer).double(), 2, torch.tensor([3, 4])))
    assert (found.size, found.layer) == (2, "head.weight")
    observation = observe(mlp(768, (60,), 10).double(), 3)
    nothing = gl.Update({name: torch.zeros_like(value) for name, value in observation.update.tensors.items()})
    refused = recover_batch_size(replace(observation, update=nothing))
    assert isinstance(refused, NoBatchSize)
    assert "2 linear layers are zero" in refused.reason
