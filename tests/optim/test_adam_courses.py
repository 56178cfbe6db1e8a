"""Adam's schedules, clipping and revised points, against torch's own."""

import torch
from torch import Tensor

from gradleak.optim import Adam, Budget, Staircase, WarmLinear, minimize, value_and_gradient


def bowl(point: Tensor) -> Tensor:
    return (torch.arange(1, 5) * (point - 1).square()).sum()


def run(adam: Adam, start: Tensor) -> Tensor:
    ended = minimize(value_and_gradient(bowl), start, optimizer=adam, budget=Budget(), moments=3)
    return ended.trace[-1]


def test_schedules() -> None:
    rise = WarmLinear(10)
    assert [rise(2.0, step, 30) for step in (0, 5, 10, 20, 30)] == [0.0, 1.0, 2.0, 1.0, 0.0]
    fall = Staircase(0.5, 10)
    assert [fall(2.0, step, 30) for step in (0, 9, 10, 29)] == [2.0, 2.0, 1.0, 0.5]


def test_clipping_is_torchs_own_for_each_restart() -> None:
    start = torch.tensor([[3.0, -2.0, 0.5, 9.0], [1.1, 1.0, 0.9, 1.0]], dtype=torch.float64)
    found = run(Adam(20, lr=0.3, weight_decay=0.01, clip=1.0), start)
    for row, value in zip(start, found, strict=True):
        point = row.clone().requires_grad_()
        optimizer = torch.optim.AdamW([point], lr=0.3, weight_decay=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            bowl(point).backward()
            torch.nn.utils.clip_grad_norm_([point], 1.0)
            optimizer.step()
        assert torch.allclose(bowl(point.detach()), value, rtol=1e-9)


def test_points_are_revised_between_steps() -> None:
    steps: list[int] = []

    def revise(step: int, points: Tensor) -> Tensor:
        steps.append(step)
        return torch.ones_like(points) if step == 3 else points

    start = torch.zeros((1, 4))
    assert float(run(Adam(4, lr=0.0, revise=revise), start)) == 0.0
    assert steps == [0, 1, 2, 3]
