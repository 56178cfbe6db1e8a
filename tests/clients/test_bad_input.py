"""Clients that contradict themselves, or whose own training diverges, have no update to capture."""

from typing import Any

import pytest
import torch
from torch import nn

import gradleak as gl
from tests.problems import images, labels, normed_net, small_lenet, task_of


def problems_of(client: gl.clients.Client, task: gl.Task | None = None, count: int = 4) -> tuple[str, ...]:
    with pytest.raises(gl.BadInput) as caught:
        gl.capture(task or small_lenet(), images(count), labels(count), client=client)
    for problem in caught.value.problems:  # expected / got / what to do
        assert ": expected " in problem
        assert "got " in problem
        assert "; " in problem
    return caught.value.problems


@pytest.mark.parametrize("order_known", [False, True])
def test_a_learning_rate_that_diverges_is_named_with_its_step(order_known: bool) -> None:
    client = gl.clients.LocalSGD(lr=1e200, weight_decay=1.0, epochs=3, batch_size=2)
    with pytest.raises(gl.BadInput) as caught:
        gl.capture(small_lenet(), images(4), labels(4), client=client, threat=gl.ThreatModel(order_known=order_known))
    (problem,) = caught.value.problems
    assert problem.startswith("client.lr: expected local training that stays finite, got NaN or infinity in ")
    assert "the client's own training diverged at local step 2 of 6; lower lr (now 1e+200)" in problem


def test_the_diverging_client_of_an_aggregate_is_named() -> None:
    good, bad = gl.clients.LocalSGD(lr=0.1), gl.clients.LocalSGD(lr=1e200, weight_decay=1.0, epochs=2)
    (problem,) = problems_of(gl.clients.Aggregate([good, bad]))
    assert "from client 1 of the aggregate" in problem
    assert "local step 2 of 2" in problem


def test_an_overflow_of_one_gradient_is_named() -> None:
    (problem,) = problems_of(gl.clients.Gradient(), task_of(nn.Sequential(nn.Flatten(), _Huge(), nn.Linear(768, 10))))
    assert problem.startswith("client: expected a finite gradient, got NaN or infinity in ")


def test_half_precision_that_overflows_says_what_to_change() -> None:
    task = small_lenet(torch.float32)
    client = gl.clients.Gradient(autocast="fp16", loss_scale=1e9)
    with pytest.raises(gl.BadInput, match=r"lower loss_scale \(now 1e\+09\), use autocast='bf16'"):
        gl.capture(task, images(2).float(), labels(2), client=client)


CONTRADICTIONS: dict[str, tuple[type[gl.clients.Client], dict[str, Any], list[str]]] = {
    "nothing sent": (gl.clients.Gradient, {"sent": ()}, ["sent"]),
    "unknown tensor": (gl.clients.Gradient, {"sent": ("decoder.*",)}, ["sent"]),
    "buffers in evaluation": (gl.clients.Gradient, {"send_buffers": True}, ["send_buffers"]),
    "float64 and autocast": (gl.clients.Gradient, {"autocast": "bf16", "loss_scale": 0.0}, ["loss_scale", "autocast"]),
    "micro-batch of nothing": (gl.clients.Gradient, {"micro_batch": 0}, ["micro_batch"]),
    "words": (gl.clients.Gradient, {"mode": "test", "dropout": "on", "autocast": "int8"}, ["mode", "dropout"]),
    "Adam": (
        gl.clients.LocalAdam,
        {"lr": 0.0, "betas": (1.0, 0.9), "epsilon": 0.0, "weight_decay": -1.0},
        ["lr", "betas", "epsilon", "weight_decay"],
    ),
    "SGD": (
        gl.clients.LocalSGD,
        {"lr": float("nan"), "epochs": 0, "batch_size": 0, "proximal": -1.0},
        ["lr", "epochs", "batch_size", "proximal"],
    ),
    "nobody": (gl.clients.Aggregate, {"clients": ()}, ["clients"]),
    "no sizes": (
        gl.clients.Aggregate,
        {"clients": (gl.clients.Gradient(),), "count": 2, "sizes": (1,), "weighting": "loss"},
        ["sizes", "weighting"],
    ),
    "gradient and delta": (
        gl.clients.Aggregate,
        {"clients": (gl.clients.Gradient(), gl.clients.LocalSGD(lr=-1.0))},
        ["clients", "clients.1.lr"],
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictory_settings_are_all_named(case: str) -> None:
    kind, settings, wrong = CONTRADICTIONS[case]
    problems = problems_of(kind(**settings))
    for setting in wrong:
        assert any(problem.startswith(f"client.{setting}: expected") for problem in problems), (setting, problems)


def test_more_clients_than_examples_is_refused() -> None:
    (problem,) = problems_of(gl.clients.Aggregate([gl.clients.Gradient()], count=5))
    assert "at most 4 clients for 4 examples, got 5" in problem
    (problem,) = problems_of(gl.clients.Aggregate([gl.clients.Gradient()], count=2, sizes=(1, 2)))
    assert "a sum of 4 examples, got 3" in problem


def test_a_member_of_an_aggregate_is_named_by_its_place() -> None:
    clients = [gl.clients.LocalSGD(lr=0.1), gl.clients.LocalSGD(lr=0.1, dropout="off", send_buffers=True)]
    problems = problems_of(gl.clients.Aggregate(clients), task_of(normed_net(nn.BatchNorm2d)))
    assert any(problem.startswith("client.clients.1.send_buffers: expected") for problem in problems)


class _Huge(nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows * 1e4).exp()
