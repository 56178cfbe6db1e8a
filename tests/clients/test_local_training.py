"""Local training against plain training loops of PyTorch."""

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradleak as gl
from tests.problems import images, labels, normed_net, small_lenet

Optimizing = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
ORDER = ((2, 0, 4, 1, 3), (1, 2, 3, 4, 0), (4, 3, 0, 2, 1))


def plain_training(
    task: gl.Task, inputs: Tensor, targets: Tensor, optimizing: Optimizing, batch_size: int, *, train: bool = False
) -> tuple[dict[str, Tensor], nn.Module]:
    """What a training script would send, going through the data as `ORDER` says."""
    model = copy.deepcopy(task.model).train(train)
    optimizer = optimizing(parameter for parameter in model.parameters() if parameter.requires_grad)
    for order in ORDER:
        for first in range(0, len(inputs), batch_size):
            positions = list(order[first : first + batch_size])
            optimizer.zero_grad()
            cross_entropy(model(inputs[positions]), targets[positions]).backward()
            optimizer.step()
    before = dict(task.model.named_parameters())
    return {name: after.detach() - before[name].detach() for name, after in model.named_parameters()}, model


def sent(task: gl.Task, inputs: Tensor, targets: Tensor, client: gl.clients.Client) -> gl.Update:
    return gl.capture(task, inputs, targets, client=client)[0].update


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 1e-2},
        {"momentum": 0.8, "dampening": 0.1, "weight_decay": 1e-3},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    ],
    ids=str,
)
def test_local_sgd_is_the_loop_of_torch(settings: dict[str, float]) -> None:
    task, inputs, targets = small_lenet(), images(5), labels(5)
    client = gl.clients.LocalSGD(lr=0.5, epochs=3, batch_size=2, order=ORDER, **settings)  # pyright: ignore[reportArgumentType]
    plain, _ = plain_training(task, inputs, targets, lambda p: torch.optim.SGD(p, lr=0.5, **settings), 2)  # pyright: ignore[reportArgumentType]
    update = sent(task, inputs, targets, client)
    assert update.kind == "delta"
    for name, value in plain.items():
        torch.testing.assert_close(update.tensors[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 1e-2}, {"weight_decay": 1e-2, "decoupled": True}], ids=str)
def test_local_adam_is_the_loop_of_torch(settings: dict[str, float]) -> None:
    task, inputs, targets = small_lenet(), images(5), labels(5)
    client = gl.clients.LocalAdam(lr=0.01, epochs=3, batch_size=2, order=ORDER, **settings)  # pyright: ignore[reportArgumentType]
    kind = torch.optim.AdamW if settings.get("decoupled") else torch.optim.Adam
    decay = settings.get("weight_decay", 0.0)
    plain, _ = plain_training(task, inputs, targets, lambda p: kind(p, lr=0.01, weight_decay=decay), 2)
    update = sent(task, inputs, targets, client)
    for name, value in plain.items():
        torch.testing.assert_close(update.tensors[name], value, rtol=1e-10, atol=1e-12)


def test_one_step_is_minus_lr_times_the_gradient() -> None:
    task, inputs, targets = small_lenet(), images(4), labels(4)
    gradient = sent(task, inputs, targets, gl.clients.Gradient()).tensors
    delta = sent(task, inputs, targets, gl.clients.LocalSGD(lr=0.1)).tensors
    for name, value in gradient.items():
        torch.testing.assert_close(delta[name], -0.1 * value, rtol=1e-10, atol=1e-14)


def test_the_proximal_term_pulls_back_to_the_start() -> None:
    task, inputs, targets = small_lenet(), images(4), labels(4)
    update = sent(task, inputs, targets, gl.clients.LocalSGD(lr=0.1, epochs=2, proximal=0.3)).tensors
    model = copy.deepcopy(task.model)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        apart = sum((p - s).square().sum() for p, s in zip(model.parameters(), start, strict=True))
        (cross_entropy(model(inputs), targets) + 0.15 * apart).backward()
        optimizer.step()
    for (name, after), before in zip(model.named_parameters(), start, strict=True):
        torch.testing.assert_close(update[name], after.detach() - before, rtol=1e-10, atol=1e-12)


def test_buffers_are_those_of_the_module_after_its_own_training() -> None:
    task = gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=10)
    inputs, targets = images(5), labels(5)
    client = gl.clients.LocalSGD(lr=0.05, epochs=3, batch_size=3, order=ORDER, mode="train", send_buffers=True)
    plain, model = plain_training(task, inputs, targets, lambda p: torch.optim.SGD(p, lr=0.05), 3, train=True)
    update = sent(task, inputs, targets, client)
    for name, value in plain.items():
        torch.testing.assert_close(update.tensors[name], value, rtol=1e-10, atol=1e-12)
    assert list(update.buffers) == [name for name, _ in model.named_buffers()]
    for name, value in model.named_buffers():
        assert update.buffers[name].dtype == value.dtype
        torch.testing.assert_close(update.buffers[name], value, rtol=1e-10, atol=1e-12)


def test_the_order_is_random_and_known_only_if_given() -> None:
    task, inputs, targets = small_lenet(), images(6), labels(6)
    client = gl.clients.LocalSGD(lr=0.5, epochs=2, batch_size=2)
    withheld, _ = gl.capture(task, inputs, targets, client=client, seed=3)
    given, _ = gl.capture(task, inputs, targets, client=client, threat=gl.ThreatModel(order_known=True), seed=3)
    other, _ = gl.capture(task, inputs, targets, client=client, seed=4)
    assert withheld.client == client
    assert isinstance(given.client, gl.clients.LocalSGD)
    assert given.client.order is not None
    assert given.client.order[0] != given.client.order[1]
    assert torch.equal(withheld.update.tensors["linear.weight"], given.update.tensors["linear.weight"])
    assert not torch.equal(withheld.update.tensors["linear.weight"], other.update.tensors["linear.weight"])


def test_contradictory_settings_are_all_named() -> None:
    client = gl.clients.LocalSGD(lr=-1, epochs=0, batch_size=0, momentum=1.0, nesterov=True, dampening=0.1)
    with pytest.raises(gl.BadInput) as caught:
        gl.capture(small_lenet(), images(2), labels(2), client=client)
    named = " ".join(caught.value.problems)
    for setting in ("lr", "epochs", "batch_size", "momentum", "nesterov"):
        assert f"client.{setting}: expected" in named


def test_an_order_must_be_of_the_batch() -> None:
    client = gl.clients.LocalSGD(lr=0.1, order=((0, 1, 1),))
    with pytest.raises(gl.BadInput, match="every position 0..2 once"):
        gl.capture(small_lenet(), images(3), labels(3), client=client)
    client = gl.clients.LocalSGD(lr=0.1, order=((0, 2, 1),))
    with pytest.raises(gl.BadInput, match="expected the positions of 2 examples, got 3"):
        gl.capture(small_lenet(), images(2), labels(2), client=client)
