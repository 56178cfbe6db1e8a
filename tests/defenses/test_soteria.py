"""Soteria against a plain transcription, and what it leaves to an attacker who knows it."""

import time

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.defenses import PrivateStep
from gradleak.defenses.convolution_adjoint import convolution_adjoint
from gradleak.defenses.feature_slopes import feature_slopes
from gradleak.defenses.preimage import Preimage
from gradleak.defenses.soteria import feature_scores
from gradleak.threat import simulator
from gradleak.zoo.models import lenet
from gradleak.zoo.models.building import seeded
from tests.problems import TinyTransformer, images, labels, small_lenet, task_of
from tests.reference.soteria import soteria_mask, soteria_scores


def sent(
    task: gl.Task, count: int, *defenses: gl.defenses.Defense, client: gl.clients.Client | None = None
) -> gl.Update:
    return gl.capture(task, images(count), labels(count), defenses=defenses, client=client)[0].update


@pytest.mark.parametrize(("count", "percent"), [(1, 80.0), (3, 50.0), (3, 33.3)])
def test_columns_are_those_of_a_plain_transcription(count: int, percent: float) -> None:
    task = small_lenet()
    trunk = nn.Sequential(*list(task.model.children())[:-1])
    scores = soteria_scores(lambda image: trunk(image[None])[0], images(count), 1e-10)
    plain, defended = sent(task, count), sent(task, count, gl.defenses.Soteria(percent))
    expected = plain.tensors["linear.weight"] * soteria_mask(scores, percent)
    assert torch.equal(defended.tensors["linear.weight"], expected)
    assert 0.9 * percent < 100 * float((expected[0] == 0).double().mean()) < 1.1 * percent
    others = set(plain.tensors) - {"linear.weight"}
    assert all(torch.equal(defended.tensors[name], plain.tensors[name]) for name in others)


def test_negative_features_count_by_their_size() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.Tanh(), nn.Linear(6, 10))
    task = task_of(seeded(0, lambda: model))
    step = PrivateStep(task, task.state(), images(2), nn.functional.one_hot(labels(2), 10).double())
    expected = soteria_scores(lambda image: model[:3](image[None])[0], images(2), 0.1)
    assert bool((model[:3](images(2)) < 0).any())
    torch.testing.assert_close(feature_scores(step, "3", 0.1), expected)


def exact_slopes(model: nn.Sequential, space: gl.ImageSpace, variable: Tensor) -> Tensor:
    """Of the features before the last layer, by torch's own Jacobian of each example."""

    def features(image: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, dtype=image.dtype).view(-1, 1, 1) for values in (space.mean, space.std))
        return model[:-1](((image - mean) / std)[None])[0]

    rows = [torch.autograd.functional.jacobian(features, image) for image in variable]
    return torch.stack([row.flatten(1).norm(dim=1) for row in rows])  # pyright: ignore[reportAttributeAccessIssue]


class Doubled(nn.Module):
    """The image reaches the features by two ways, of which a convolution is the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.conv(images)) + images.square()


@pytest.mark.parametrize(
    "first",
    [
        nn.Conv2d(2, 3, 5, stride=2, padding=2),
        nn.Conv2d(2, 3, 3, stride=3, padding=1),
        nn.Conv2d(2, 2, 3, padding=1, groups=2),
        Doubled(),
    ],
    ids=["strided", "odd", "groups", "two ways"],
)
def test_slopes_are_the_row_norms_of_the_jacobian_whatever_comes_first(first: nn.Module) -> None:
    space = gl.ImageSpace((2, 9, 8), mean=(0.4, 0.6), std=(0.2, 0.5))
    body = [first, nn.Tanh(), nn.Flatten()]
    width = nn.Sequential(*body)(torch.zeros(1, 2, 9, 8)).shape[1]
    model = nn.Sequential(*body, nn.Linear(width, 4)).double()
    task = gl.Task(model, space, num_classes=4)
    variable = images(3, (2, 9, 8))
    step = PrivateStep(task, task.state(), variable, torch.full((3, 4), 0.25).double())
    _, slopes = feature_slopes(step, "3")
    torch.testing.assert_close(slopes[:, 0], exact_slopes(model, space, variable))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
def test_the_adjoint_of_a_convolution_is_its_backward_pass(size: int, stride: int, padding: int) -> None:
    layer = nn.Conv2d(2, 3, size, stride=stride, padding=padding).double()
    image = images(2, (2, 11, 8)).requires_grad_()
    output = layer(image)
    slopes = images(2, tuple(output.shape[1:]), seed=1)
    adjoint = convolution_adjoint(layer, layer.weight.detach(), 11, 8)
    assert adjoint is not None
    expected = torch.autograd.grad(output, image, slopes)[0]
    torch.testing.assert_close(adjoint.image(slopes, 11, 8), expected)
    torch.testing.assert_close(adjoint.blocks(slopes).flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1))


def test_behind_a_bottleneck_the_scores_do_not_depend_on_its_noise() -> None:
    task = gl.defenses.Precode(width=8).change_task(small_lenet())
    step = PrivateStep(task, task.state(), images(2), nn.functional.one_hot(labels(2), 10).double())
    assert torch.equal(feature_scores(step, "linear.head", 0.1), feature_scores(step, "linear.head", 0.1))


def test_any_linear_layer_and_sequences() -> None:
    task = task_of(seeded(0, TinyTransformer))
    plain = sent(task, 2)
    defended = sent(task, 2, gl.defenses.Soteria(50.0, layer="encoder.linear1"))
    changed = [name for name, tensor in plain.tensors.items() if not torch.equal(tensor, defended.tensors[name])]
    assert changed == ["encoder.linear1.weight"]
    assert int((defended.tensors[changed[0]] == 0).all(dim=0).sum()) == 4


def test_none_withheld_is_the_identity() -> None:
    task = small_lenet()
    plain, defended = sent(task, 2), sent(task, 2, gl.defenses.Soteria(0.0))
    assert all(torch.equal(plain.tensors[name], defended.tensors[name]) for name in plain.tensors)
    observation = gl.capture(task, images(1), labels(1), defenses=[gl.defenses.Soteria(0.0)])[0]
    elsewhere = simulator(observation)(images(1, seed=1), task.target_probabilities(labels(1)))["linear.weight"]
    assert not torch.allclose(elsewhere, observation.update.tensors["linear.weight"])


def test_weight_deltas_lose_the_same_columns() -> None:
    client = gl.clients.LocalSGD(lr=0.1, epochs=2)
    task, soteria = small_lenet(), gl.defenses.Soteria(80.0)
    of_gradient = sent(task, 2, soteria).tensors["linear.weight"] == 0
    of_delta = sent(task, 2, soteria, client=client).tensors["linear.weight"] == 0
    assert torch.equal(of_gradient, of_delta)


def test_knowing_it_a_withheld_column_says_nothing_and_every_other_entry_is_compared() -> None:
    task, targets = small_lenet(), small_lenet().target_probabilities(labels(1))
    observation, truth = gl.capture(task, images(1), labels(1), defenses=[gl.defenses.Soteria(80.0)])
    known = simulator(observation)
    observed = observation.update.tensors
    assert all(torch.allclose(value, observed[name]) for name, value in known(truth.inputs, targets).items())
    elsewhere = known(images(1, seed=1), targets)
    withheld = (observed["linear.weight"] == 0).all(dim=0)
    assert bool((elsewhere["linear.weight"] == observed["linear.weight"])[:, withheld].all())
    assert bool((elsewhere["linear.weight"] != observed["linear.weight"])[:, ~withheld].any(dim=0).all())


@pytest.mark.parametrize("soteria_first", [True, False])
def test_in_either_order_with_pruning_the_truth_remains_possible(soteria_first: bool) -> None:
    defenses: list[gl.defenses.Defense] = [gl.defenses.Soteria(80.0), gl.defenses.TopK(0.3)]
    task = small_lenet()
    observation, truth = gl.capture(task, images(1), labels(1), defenses=defenses if soteria_first else defenses[::-1])
    replies = simulator(observation)(truth.inputs, task.target_probabilities(truth.targets))
    assert all(torch.allclose(value, observation.update.tensors[name]) for name, value in replies.items())


def test_preimage_of_a_layer_that_was_not_sent() -> None:
    known = Preimage.exactly({"conv1.bias": torch.zeros(3)})
    assert torch.equal(gl.defenses.Soteria(80.0).preimage(known).upper["conv1.bias"], torch.zeros(3))


def test_full_size_features_take_less_than_two_seconds() -> None:
    task = gl.Task(lenet(10), gl.ImageSpace((3, 32, 32)), num_classes=10)
    step = PrivateStep(task, task.state(), images(1, (3, 32, 32)).float(), torch.full((1, 10), 0.1))
    began = time.perf_counter()
    assert len(feature_scores(step, "linear", 1e-10)) == 768
    assert time.perf_counter() - began < 2


def refused(task: gl.Task, soteria: gl.defenses.Soteria) -> str:
    with pytest.raises(gl.BadInput) as caught:
        sent(task, 1, soteria)
    return str(caught.value)


def test_bad_input() -> None:
    task = small_lenet()
    for percent in (-1.0, 100.0, float("nan")):
        assert "Soteria.percent: expected at least 0 and below 100" in refused(task, gl.defenses.Soteria(percent))
    assert "Soteria.epsilon" in refused(task, gl.defenses.Soteria(epsilon=0.0))
    assert "got 'fc'; the model's are: 'linear'" in refused(task, gl.defenses.Soteria(layer="fc"))
    assert "got 'conv1'" in refused(task, gl.defenses.Soteria(layer="conv1"))

    class Embedded(nn.Module):
        """Its last matrix is no linear layer's weight."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(768, 10)
            self.scale = nn.ParameterList([nn.Parameter(torch.ones(1, 10))])

        def forward(self, pixels: Tensor) -> Tensor:
            return self.head(pixels.flatten(1)) * self.scale[0]

    found = refused(task_of(seeded(0, Embedded)), gl.defenses.Soteria())
    assert "got 'scale.0'; name the layer, the model's are: 'head'" in found
