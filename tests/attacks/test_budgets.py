"""The portfolio under budgets: it keeps them, repeats itself to the bit, and matches as well as the recipes in it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.mismatch import mismatch
from gradleak.attacks.precision import in_precision
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet, mlp


@dataclass(frozen=True)
class Case:
    """A model, and what it is attacked with."""

    model: Callable[[], nn.Module]
    count: int = 1
    closed_forms: bool = True
    labels: tuple[int, ...] | None = None


CASES = {
    "lenet-tanh": Case(lambda: lenet(10, activation=nn.Tanh), closed_forms=False),
    "lenet-relu": Case(lambda: lenet(10, activation=nn.ReLU, initialization="default")),
    "lenet-repeated-labels": Case(lambda: lenet(10), 8, labels=(3, 3, 1, 1, 4, 9, 9, 0)),
    "mlp-relu-16": Case(lambda: mlp(3072, (400,), 10), 16),
    "mlp-relu-64": Case(lambda: mlp(3072, (400,), 10), 64),
}


def observed(case: Case, seed: int = 0) -> gl.Observation:
    inputs, targets = load("photographs").sample(case.count, seed=seed, distinct_labels=False)
    targets = targets % 10 if case.labels is None else torch.tensor(case.labels)
    return gl.capture(gl.Task(case.model(), gl.ImageSpace((3, 32, 32)), 10), inputs, targets, seed=seed)[0]


def error(observation: gl.Observation, found: gl.Reconstruction) -> float:
    double = in_precision(observation, torch.float64)
    return mismatch(double, found.variable.double(), found.target_probabilities.double())


def indivisible(observation: gl.Observation) -> float:
    """Seconds of the longest parts that look at no clock: one evaluation, and decompositions of one gradient."""
    began = time.perf_counter()
    largest = max(observation.update.tensors.values(), key=torch.Tensor.numel).double().flatten(1)
    torch.linalg.svdvals(largest)
    torch.linalg.svd(largest, full_matrices=False)
    count = observation.batch_size or 1
    mismatch(observation, torch.zeros(count, 3, 32, 32), torch.full((count, 10), 0.1))
    return time.perf_counter() - began


@pytest.mark.parametrize("seconds", [0.5, 2.0])
@pytest.mark.parametrize("name", CASES)
def test_seconds_are_kept(name: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Processor time, so that other work on the machine does not count.
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    observation = observed(CASES[name])
    attack = gl.attacks.auto(closed_forms=CASES[name].closed_forms, max_seconds=seconds)
    attack(observation)  # what is imported on first use
    unit = indivisible(observation)
    began = time.perf_counter()
    attack(observation)
    assert time.perf_counter() - began <= 1.1 * seconds + unit + 0.2


@pytest.mark.parametrize(
    "case",
    [
        CASES["lenet-tanh"],
        Case(lambda: lenet(10, activation=nn.ReLU, initialization="default"), 2, labels=(3, 1)),
        Case(lambda: lenet(10), 4, labels=(3, 3, 1, 1)),
    ],
    ids=["tanh", "relu", "repeated-labels"],
)
def test_an_evaluation_budget_gives_the_same_bits(case: Case) -> None:
    observation = observed(case)
    attack = gl.attacks.auto(closed_forms=case.closed_forms, max_seconds=None, max_evaluations=40)
    one, two = attack(observation, seed=3), attack(observation, seed=3)
    assert torch.equal(one.variable, two.variable)
    assert (one.objective, one.evaluations, one.status) == (two.objective, two.evaluations, two.status)


@pytest.mark.parametrize(
    "case",
    [
        Case(lambda: lenet(10)),
        Case(lambda: lenet(10), closed_forms=False),
        Case(lambda: lenet(10, activation=nn.Tanh, initialization="default"), closed_forms=False),
        CASES["lenet-relu"],
    ],
    ids=["sigmoid", "sigmoid-search", "tanh-search", "relu"],
)
def test_never_worse_than_the_recipes_at_equal_evaluations(case: Case) -> None:
    observation = observed(case, seed=1)
    auto = gl.attacks.auto(closed_forms=case.closed_forms, max_seconds=None, max_evaluations=100)(observation)
    assert auto.evaluations <= 100
    for recipe in (gl.attacks.dlg, gl.attacks.idlg, gl.attacks.inverting_gradients):
        other = recipe(max_evaluations=100)(observation)
        assert auto.objective <= error(observation, other), other.attack
