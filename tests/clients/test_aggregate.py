"""What secure aggregation shows: exact means, of buffers too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.clients import DPSGD, Aggregate, Client, Gradient, LocalAdam, LocalSGD
from gradleak.evidence import load_update, save_update
from tests.problems import images, labels, normed_net, small_lenet, task_of

EVERY: list[Client] = [Gradient(), LocalSGD(lr=0.1, epochs=2), LocalAdam(lr=0.1), DPSGD(clip=0.05)]


def update(client: Client, inputs: Tensor, targets: Tensor, task: gl.Task | None = None) -> gl.Update:
    return gl.capture(task or small_lenet(), inputs, targets, client=client)[0].update


@pytest.mark.parametrize("client", EVERY, ids=lambda client: type(client).__name__)
@pytest.mark.parametrize("count", [2, 7, 64])
def test_equal_updates_have_that_update_as_their_mean(client: Client, count: int) -> None:
    alone = update(client, images(1), labels(1)).tensors
    together = update(Aggregate([client], count=count), images(1).expand(count, -1, -1, -1), labels(1).expand(count))
    assert together.kind == client.kind
    for name, value in alone.items():
        torch.testing.assert_close(together.tensors[name], value, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("client", EVERY, ids=lambda client: type(client).__name__)
@pytest.mark.parametrize("weighting", ["clients", "examples"])
def test_it_is_the_mean_of_numpy(client: Client, weighting: str) -> None:
    inputs, targets, sizes = images(9), labels(9), (4, 1, 2, 2)
    ends = np.cumsum(sizes)
    alone = [update(client, inputs[e - n : e], targets[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
    aggregate = Aggregate([client], count=4, sizes=sizes, weighting=weighting)  # pyright: ignore[reportArgumentType]
    together = update(aggregate, inputs, targets)
    weights = np.array(sizes if weighting == "examples" else (1, 1, 1, 1)) / (9 if weighting == "examples" else 4)
    for name, value in together.tensors.items():
        expected = np.average([one.tensors[name].numpy() for one in alone], axis=0, weights=weights)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10, atol=1e-15)


def test_all_examples_alike_make_one_gradient() -> None:
    whole = update(Gradient(), images(6), labels(6)).tensors
    for aggregate in (Aggregate([Gradient()], count=3), Aggregate([Gradient()], count=4, weighting="examples")):
        for name, value in update(aggregate, images(6), labels(6)).tensors.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-10, atol=1e-15)


def test_parts_are_consecutive_and_as_equal_as_possible() -> None:
    aggregate = Aggregate([Gradient()], count=4)
    assert [list(part) for part in aggregate.parts(6)] == [[0, 1], [2, 3], [4], [5]]
    assert sum(aggregate.shares(6)) == pytest.approx(1.0)
    assert Aggregate([Gradient()], count=4, weighting="examples").shares(6) == pytest.approx(
        [2 / 6, 2 / 6, 1 / 6, 1 / 6]
    )


def test_buffers_are_averaged_and_counters_stay_whole() -> None:
    task = task_of(normed_net(nn.BatchNorm2d))
    client = LocalSGD(lr=0.1, epochs=3, mode="train", send_buffers=True)
    alone = [update(client, images(6)[part], labels(6)[part], task) for part in (slice(0, 3), slice(3, 6))]
    together = update(Aggregate([client], count=2), images(6), labels(6), task)
    assert list(together.buffers) == [name for name, _ in task.model.named_buffers()]
    for name, value in together.buffers.items():
        if value.is_floating_point():
            expected = (alone[0].buffers[name] + alone[1].buffers[name]) / 2
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        else:
            assert value.dtype == torch.int64
            assert torch.equal(value, alone[0].buffers[name])


def test_different_clients_keep_their_settings_and_their_files(tmp_path: Path) -> None:
    clients = (LocalSGD(lr=0.1, epochs=2, batch_size=1), LocalAdam(lr=0.01), Aggregate([LocalSGD(lr=0.2)], count=2))
    aggregate = Aggregate(clients, sizes=(2, 2, 2))
    observation, _ = gl.capture(
        small_lenet(), images(6), labels(6), client=aggregate, threat=gl.ThreatModel(order_known=True)
    )
    save_update(tmp_path / "update.safetensors", observation)
    again = load_update(tmp_path / "update.safetensors")
    assert again.client == observation.client
    assert isinstance(again.client, Aggregate)
    assert isinstance(again.client.clients[0], LocalSGD)
    assert again.client.clients[0].order is not None
    assert again.client.clients[1] == clients[1]
    restored = again.observation(small_lenet())
    for name, value in observation.update.tensors.items():
        assert torch.equal(restored.update.tensors[name], value)


def test_buffers_travel_in_files(tmp_path: Path) -> None:
    task = task_of(normed_net(nn.BatchNorm2d))
    client = Aggregate([Gradient(mode="train", send_buffers=True)], count=2)
    observation, _ = gl.capture(task, images(4), labels(4), client=client)
    save_update(tmp_path / "update.safetensors", observation)
    again = load_update(tmp_path / "update.safetensors").observation(task)
    assert again.client == client
    assert again.update.buffers["1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(again.update.buffers["1.running_mean"], observation.update.buffers["1.running_mean"])
