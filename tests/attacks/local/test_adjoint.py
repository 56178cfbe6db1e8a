"""The per-step adjoint is the derivative of the full graph, and memory decides between them."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.local.adjoint import bind_checkpointed
from gradleak.attacks.local.memory import StepBytes, choose_way, needed_bytes, step_bytes, steps_that_fit
from gradleak.clients.local_training import Batch, LocalTraining
from tests.problems import images, labels, normed_net, small_lenet

SGD = gl.clients.LocalSGD(
    lr=0.1, epochs=2, batch_size=2, shuffle=False, momentum=0.8, weight_decay=0.01, nesterov=True, proximal=0.1
)
ADAM = gl.clients.LocalAdam(lr=0.01, epochs=2, batch_size=2, shuffle=False, weight_decay=0.01)
BATCH_NORM = gl.clients.LocalSGD(lr=0.1, epochs=2, batch_size=2, shuffle=False, mode="train", send_buffers=True)


def normed_task() -> gl.Task:
    return gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=10)


def derivative(run: Callable[[Sequence[Batch]], dict[str, Tensor]], targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A number made of everything sent, and its derivative by images and targets."""
    variable, targets = images(4).requires_grad_(), targets.clone().requires_grad_()
    batches = [(variable[first : first + 2], targets[first : first + 2]) for _ in range(2) for first in (0, 2)]
    sent = run(batches)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for tensor in sent.values():
        if tensor.is_floating_point():
            weights = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            total = total + (weights * tensor).sum() + tensor.square().sum()
    by_variable, by_targets = torch.autograd.grad(total, (variable, targets))
    return total.detach(), by_variable, by_targets


@pytest.mark.parametrize(
    ("client", "task"),
    [(SGD, small_lenet()), (ADAM, small_lenet()), (BATCH_NORM, normed_task())],
    ids=["momentum and decay", "adam", "batch norm and buffers"],
)
def test_it_equals_the_full_graph(client: LocalTraining, task: gl.Task) -> None:
    targets = task.target_probabilities(labels(4))
    full = derivative(client.bind_steps(task, task.state()), targets)
    spare = derivative(bind_checkpointed(client, task, task.state()), targets)
    for one, other in zip(full, spare, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10 * float(one.abs().max()))
    assert float(full[1].abs().max()) > 0


def test_it_sends_the_same_names_in_the_same_order() -> None:
    task = normed_task()
    batches = [(images(2), task.target_probabilities(labels(2)))] * 2
    full = BATCH_NORM.bind_steps(task, task.state())(batches)
    spare = bind_checkpointed(BATCH_NORM, task, task.state())(batches)
    assert list(full) == list(spare)


def test_a_graph_is_larger_than_its_weights_and_grows_with_the_batch() -> None:
    task = small_lenet()
    small, large = (step_bytes(SGD, task, task.state(), count) for count in (1, 8))
    assert small.weights == large.weights
    assert small.weights < small.graph < large.graph


def test_the_fastest_way_that_fits_is_taken() -> None:
    one = StepBytes(graph=100, weights=10)
    assert choose_way(one, 10, 1300) == "graph"
    assert choose_way(one, 10, 1100) == "checkpoints"
    assert choose_way(one, 10, 250) == "none"
    assert steps_that_fit(one, 250) == 5
    assert needed_bytes(one, steps_that_fit(one, 250))["checkpoints"] <= 250
    assert steps_that_fit(one, float("inf")) == -1
