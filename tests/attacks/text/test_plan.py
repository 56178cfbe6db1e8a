"""The portfolio on texts: exact recovery first, then searches, the bag of tokens last."""

from collections.abc import Callable

import pytest
import torch

import gradleak as gl
from gradleak.defenses import GaussianNoise, Sign
from gradleak.zoo.data import Dataset, load, with_objective
from gradleak.zoo.models import decoder, encoder, lstm

MESSAGES = load("messages")


def space() -> gl.TokenSpace:
    assert MESSAGES.tokens is not None
    return MESSAGES.tokens


def generating() -> tuple[gl.Task, Dataset]:
    data = with_objective(MESSAGES, "causal")
    model = decoder(space().vocabulary, space().length, width=96, padding=space().padding)
    return gl.Task(model, space(), num_classes=space().vocabulary), data


def telling() -> tuple[gl.Task, Dataset]:
    model = encoder(space().vocabulary, space().length, MESSAGES.num_classes, width=96, padding=space().padding)
    return gl.Task(model, space(), num_classes=MESSAGES.num_classes), MESSAGES


@pytest.mark.parametrize("build", [generating, telling])
@pytest.mark.parametrize("known", [True, False])
def test_exact_recovery_ends_the_plan(build: Callable[[], tuple[gl.Task, Dataset]], known: bool) -> None:
    task, data = build()
    inputs, targets = data.sample(2, seed=0)
    observation, truth = gl.capture(task, inputs, targets, threat=gl.ThreatModel(batch_size_known=known))
    found = gl.attacks.auto(max_seconds=20)(observation, seed=0)
    assert (found.status, found.attack) == ("converged", "auto")
    assert found.message.startswith("by dager")
    assert not any("lamp" in line for line in found.trace)
    assert gl.score(found, truth).to_dict()["exact"] == [1.0, 1.0]


def test_known_noise_is_taken_into_account() -> None:
    task, data = generating()
    inputs, targets = data.sample(1, seed=1)
    observation, truth = gl.capture(task, inputs, targets, defenses=[GaussianNoise(1e-3)])
    found = gl.attacks.auto(max_seconds=20)(observation, seed=0)
    assert found.status == "converged"
    assert gl.score(found, truth).to_dict()["exact"] == [1.0]


def test_where_no_span_helps_searches_follow_and_the_bag_is_the_last() -> None:
    model = lstm(space().vocabulary, MESSAGES.num_classes, padding=space().padding)
    task = gl.Task(model, space(), num_classes=MESSAGES.num_classes)
    inputs, targets = MESSAGES.sample(1, seed=0)
    observation, truth = gl.capture(task, inputs, targets, defenses=[Sign()])
    found = gl.attacks.auto(restarts=1, max_evaluations=30, max_seconds=20)(observation, seed=0)
    assert [name for name in ("dager", "lamp", "tag") if any(line.startswith(f"{name}:") for line in found.trace)] == [
        "dager",
        "lamp",
        "tag",
    ]
    assert found.status == "budget"
    assert gl.score(found, truth).text is not None
    assert torch.isfinite(torch.tensor(found.objective))
