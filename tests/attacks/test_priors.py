"""Priors: numbers by hand, and BatchNorm statistics against the module's own."""

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.priors import (
    batch_norm_statistics,
    euclidean_norm,
    group_consistency,
    mean_absolute_differences,
    task_loss,
    total_variation,
)
from gradleak.seeds import stage_generator
from gradleak.threat import Observation
from tests.problems import images, labels, normed_net, small_lenet


def observation(model: nn.Module | None = None) -> Observation:
    task = small_lenet() if model is None else gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    return gl.capture(task, images(3), labels(3))[0]


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 0.0, 0.5]]]])
    across = (1 + 1 + 0 + 0.5) / 4
    down = (0 + 1 + 0.5) / 3
    assert float(mean_absolute_differences(image)) == pytest.approx(across + down)


@pytest.mark.parametrize("shape", [(1, 1, 5, 9), (4, 3, 16, 16)])
def test_total_variation_of_a_constant_image_is_zero_and_size_does_not_matter(shape: tuple[int, ...]) -> None:
    assert float(mean_absolute_differences(torch.full(shape, 0.7))) == 0
    ramp = torch.arange(shape[-1], dtype=torch.float64).expand(shape)
    assert float(mean_absolute_differences(ramp)) == 1


def test_the_image_priors_are_those_functions() -> None:
    batch, targets = images(3), torch.zeros(3, 10)
    assert float(total_variation(observation())(batch, targets)) == float(mean_absolute_differences(batch))
    assert float(euclidean_norm(observation())(batch, targets)) == pytest.approx(float(batch.square().sum()) ** 0.5)


def test_task_loss_is_the_training_loss() -> None:
    seen = observation()
    targets = seen.task.target_probabilities(labels(3))
    expected = nn.functional.cross_entropy(seen.task.model(images(3)), labels(3))
    torch.testing.assert_close(task_loss(seen)(images(3), targets), expected)


def test_batch_norm_statistics_are_the_modules_own() -> None:
    model = normed_net(nn.BatchNorm2d)
    batch = images(3)
    term = batch_norm_statistics(observation(model))
    # What the layer itself would call the batch's statistics: momentum 1 makes them the running ones.
    trained = normed_net(nn.BatchNorm2d).train()
    norm, old = trained[1], model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(old, nn.BatchNorm2d)
    norm.momentum = 1.0
    trained[:2](batch)
    count = 3 * 16 * 16
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert old.running_mean is not None
    assert old.running_var is not None
    biased = norm.running_var * (count - 1) / count
    expected = (norm.running_mean - old.running_mean).norm() + (biased - old.running_var).norm()
    torch.testing.assert_close(term(batch, torch.zeros(3, 10)), expected)


def test_batch_norm_statistics_differentiate_under_vmap_and_leave_the_model_alone() -> None:
    model = normed_net(nn.BatchNorm2d)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    term = batch_norm_statistics(observation(model))
    batches = torch.stack([images(3, seed=seed) for seed in (1, 2)]).requires_grad_()

    def one(batch: Tensor) -> Tensor:
        return term(batch, torch.zeros(3, 10))

    values = torch.vmap(one)(batches)
    torch.testing.assert_close(values[1], term(batches[1], torch.zeros(3, 10)))
    (gradient,) = torch.autograd.grad(values.sum(), batches)
    assert float(gradient.abs().sum()) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())  # pyright: ignore[reportPrivateUsage]


def test_batch_norm_statistics_of_a_model_without_the_layer_are_zero() -> None:
    assert float(batch_norm_statistics(observation())(images(3), torch.zeros(3, 10))) == 0


def test_group_consistency_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    assert group_consistency(points).tolist() == [2.0, 0.0, 2.0]
    alone = torch.randn((1, 5), generator=stage_generator(0, "x")).requires_grad_()
    value = group_consistency(alone)
    assert value.tolist() == [0.0]
    assert bool(torch.isfinite(torch.autograd.grad(value.sum(), alone)[0]).all())
