"""Updates of local training and of aggregates against their true batch: recomputed, or told why they differ."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.clients import DPSGD, Aggregate, Client, Gradient, LocalSGD
from gradleak.consistency import Consistency, check_consistency
from tests.problems import Problem, images, labels, normed_net, problems, small_lenet, task_of

BELIEVED = LocalSGD(lr=0.1, epochs=3, shuffle=False, batch_size=2)


def verdict(client: Client, believed: Client, *, factor: float = 1.0, task: gl.Task | None = None) -> Consistency:
    task = task or small_lenet()
    update = gl.capture(task, images(4), labels(4), client=client)[0].update
    sent: dict[str, Tensor] = {name: factor * tensor for name, tensor in update.tensors.items()}
    kept = gl.Update(sent, believed.kind, update.buffers)
    return check_consistency(kept, task, images(4), labels(4), client=believed)


def cause(found: Consistency) -> str:
    assert not found.consistent
    proven = [one for one in found.causes if one.proven]
    assert len(proven) == 1, found.causes
    return proven[0].name


@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.name)
def test_every_client_is_recomputed(problem: Problem) -> None:
    update = gl.capture(problem.task, problem.inputs, problem.targets, client=problem.client)[0].update
    found = check_consistency(update, problem.task, problem.inputs, problem.targets, client=problem.client)
    assert found.consistent, found
    assert found.relative_error < 1e-9


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lr": 0.2}, "learning_rate"),
        ({"lr": 0.03}, "learning_rate"),
        ({"momentum": 0.9}, "momentum"),
        ({"weight_decay": 1e-2}, "weight_decay"),
        ({"epochs": 5}, "epochs"),
    ],
    ids=str,
)
def test_wrong_settings_are_told(changes: dict[str, float], expected: str) -> None:
    assert cause(verdict(replace(BELIEVED, **changes), BELIEVED)) == expected  # pyright: ignore[reportArgumentType]


def test_a_flipped_sign_is_told() -> None:
    assert cause(verdict(BELIEVED, BELIEVED, factor=-1.0)) == "sign"


@pytest.mark.parametrize("factor", [-1 / 0.1, -1 / (0.1 * 6)])
def test_a_pseudo_gradient_is_told(factor: float) -> None:
    assert cause(verdict(BELIEVED, BELIEVED, factor=factor)) == "gradient_as_delta"


def test_a_gradient_in_place_of_a_delta_is_told() -> None:
    found = verdict(Gradient(), BELIEVED)
    assert cause(found) == "gradient_sent"


def test_a_delta_for_which_nobody_said_so_is_told() -> None:
    found = verdict(LocalSGD(lr=0.1), Gradient())
    assert cause(found) == "delta_as_gradient"


def test_the_mode_of_local_training_is_told() -> None:
    task = task_of(normed_net(nn.BatchNorm2d))
    assert cause(verdict(replace(BELIEVED, mode="train"), BELIEVED, task=task)) == "mode"


@pytest.mark.parametrize(
    "client", [LocalSGD(lr=0.002, epochs=2, batch_size=1), LocalSGD(lr=0.001, epochs=3, batch_size=2)], ids=repr
)
def test_an_unknown_order_is_accepted_and_said(client: Client) -> None:
    found = verdict(client, client)
    assert found.consistent
    assert "the order of the local batches is not known" in found.precision
    assert 1e-9 < found.relative_error <= found.tolerance
    other = check_consistency(
        gl.capture(small_lenet(), images(4), labels(4), client=client)[0].update,
        small_lenet(),
        images(4, seed=9),
        (labels(4) + 1) % 10,
        client=client,
        max_seconds=1,
    )
    assert not other.consistent


def test_an_order_that_decides_everything_leaves_nothing_to_tell() -> None:
    client = LocalSGD(lr=0.5, epochs=2, batch_size=1)
    found = verdict(client, client)
    assert not found.consistent
    assert found.causes[0].name == "unknown_order"
    assert "record the order" in found.causes[0].explanation


def test_an_unknown_order_does_not_hide_a_wrong_learning_rate() -> None:
    believed = LocalSGD(lr=0.002, epochs=2, batch_size=1)
    found = verdict(replace(believed, lr=0.004), believed)
    assert not found.consistent
    assert "learning_rate" in {one.name for one in found.causes}


def test_noise_of_dp_sgd_is_not_taken_for_another_batch() -> None:
    noisy = DPSGD(clip=0.1, noise_multiplier=0.01)
    found = verdict(noisy, noisy)
    assert found.consistent
    assert "the stated random draws add" in found.precision


def test_too_many_clients_for_the_batch_are_refused() -> None:
    update = gl.capture(small_lenet(), images(4), labels(4))[0].update
    with pytest.raises(gl.BadInput, match="at most 4 clients for 4 examples"):
        check_consistency(
            update,
            small_lenet(),
            images(4),
            labels(4),
            client=Aggregate([Gradient()], count=torch.iinfo(torch.int8).max),
        )
