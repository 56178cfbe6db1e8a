"""Whose example is whose: found where the update depends on it, and not claimed where it does not."""

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.aggregates import Membership, membership
from gradleak.clients import Aggregate, Client, Gradient, LocalAdam, LocalSGD
from tests.problems import images, labels, normed_net, small_lenet, task_of

# The attacker's copy of the examples lies in another order than the clients hold them.
SHUFFLED = [3, 0, 2, 1]


def asked(client: Aggregate, task: gl.Task | None = None, max_evaluations: int = 2000) -> Membership | str:
    task = task or small_lenet()
    observation, _ = gl.capture(task, images(4), labels(4), client=client)
    targets = task.target_probabilities(labels(4))
    return membership(observation, images(4)[SHUFFLED], targets[SHUFFLED], max_evaluations=max_evaluations)


def truth(*sizes: int) -> tuple[tuple[int, ...], ...]:
    """Where the examples of consecutive parts lie in the shuffled copy."""
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return tuple(
        tuple(sorted(SHUFFLED.index(n) for n in range(end - size, end))) for size, end in zip(sizes, ends, strict=True)
    )


DIFFERENT: tuple[Client, ...] = (LocalSGD(lr=0.1), LocalSGD(lr=0.3))


@pytest.mark.parametrize("most", [6, 5], ids=["all", "exchanges"])
def test_known_different_clients_are_told_apart(most: int) -> None:
    found = asked(Aggregate(DIFFERENT), max_evaluations=most)
    assert not isinstance(found, str)
    assert found.parts == truth(2, 2)
    assert found.determined
    assert found.mismatch < 1e-20 < found.runner_up
    assert found.evaluations <= most


def test_unequal_parts_are_told_apart() -> None:
    found = asked(Aggregate([Gradient()], count=2, sizes=(3, 1)))
    assert not isinstance(found, str)
    assert found.determined
    assert found.parts == truth(3, 1)


@pytest.mark.parametrize("client", [LocalSGD(lr=0.5, epochs=3), LocalAdam(lr=0.01, epochs=2)])
def test_local_steps_tell_who_trained_together(client: Client) -> None:
    found = asked(Aggregate([client], count=2))
    assert not isinstance(found, str)
    assert found.determined
    assert set(found.parts) == set(truth(2, 2))  # clients alike have no names


def test_batch_statistics_tell_who_was_in_one_batch() -> None:
    found = asked(Aggregate([Gradient(mode="train")], count=2), task_of(normed_net(nn.BatchNorm2d)))
    assert not isinstance(found, str)
    assert found.determined
    assert set(found.parts) == set(truth(2, 2))


def test_gradients_of_clients_alike_leave_no_trace() -> None:
    found = asked(Aggregate([Gradient()], count=2))
    assert not isinstance(found, str)
    assert not found.determined
    assert found.runner_up < 1e-20


def test_single_examples_of_clients_alike_need_no_assignment() -> None:
    found = asked(Aggregate([Gradient()], count=4))
    assert not isinstance(found, str)
    assert found.parts == ((0,), (1,), (2,), (3,))
    assert found.determined
    assert found.evaluations == 1


def test_other_clients_are_refused_in_words() -> None:
    task = small_lenet()
    observation, _ = gl.capture(task, images(4), labels(4))
    assert "not known to be that of an aggregate" in str(
        membership(observation, images(4), task.target_probabilities(labels(4)))
    )
    few, _ = gl.capture(task, images(4), labels(4), client=Aggregate([Gradient()], count=3))
    assert "at most 2 clients" not in str(membership(few, images(4), task.target_probabilities(labels(4))))
    assert "expected at most 2 clients for 2 examples" in str(
        membership(few, images(2), task.target_probabilities(torch.tensor([1, 2])))
    )
