"""What cannot be compared is refused in words."""

import pytest
import torch

import gradleak as gl
from gradleak.consistency import check_consistency
from gradleak.zoo.models import lenet
from tests.consistency.planting import SPACE, X, Y, normed, proven, smooth, step, verdict


def test_an_update_of_zeros_is_no_evidence() -> None:
    found = verdict({name: torch.zeros_like(tensor) for name, tensor in step(smooth()).items()})
    assert proven(found) == ["empty"]
    assert found.relative_error != found.relative_error


def test_a_batch_and_a_client_that_do_not_fit_are_refused_at_once() -> None:
    task = gl.Task(smooth(), SPACE, 10)
    with pytest.raises(gl.BadInput) as refused:
        check_consistency(
            gl.Update(step(smooth())),
            task,
            X[:, :1],
            Y + 5,
            client=gl.clients.Gradient(mode="test"),  # pyright: ignore[reportArgumentType]
            defenses=[gl.defenses.GaussianNoise(std=-1)],
        )
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "inputs",
        "targets",
        "client.mode",
        "GaussianNoise.std",
    ]


def test_the_search_ends_when_its_time_is_over() -> None:
    other = lenet(10, input_size=16, seed=2, initialization="default")
    found = verdict(step(other), max_seconds=0.0)
    assert "time ran out" in found.causes[-1].explanation


def test_the_task_is_left_as_it_was() -> None:
    model = normed().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verdict(step(normed(), -X), model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
