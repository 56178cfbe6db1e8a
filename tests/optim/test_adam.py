"""Adam against `torch.optim.Adam`, and the schedules against torch's."""

import math

import pytest
import torch
from torch import Tensor

from gradleak.optim import Adam, Budget, WarmCosine, constant, cosine, minimize, tenfold_drops, value_and_gradient
from gradleak.seeds import stage_generator


def valley(point: Tensor) -> Tensor:
    return (100 * (point[1:] - point[:-1].square()).square() + (1 - point[:-1]).square()).sum() / 200


def starts(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((count, 37), generator=stage_generator(5, "starts"), dtype=torch.float64).to(dtype)


def torch_values(start: Tensor, optimizer: Adam) -> list[float]:
    point = start.clone().requires_grad_()
    kind = torch.optim.AdamW if optimizer.weight_decay else torch.optim.Adam
    theirs = kind(
        [point], lr=optimizer.lr, betas=optimizer.betas, eps=optimizer.epsilon, weight_decay=optimizer.weight_decay
    )
    values: list[float] = []
    for step in range(optimizer.steps):
        theirs.param_groups[0]["lr"] = optimizer.schedule(optimizer.lr, step, optimizer.steps)
        theirs.zero_grad()
        value = valley(point)
        value.backward()
        values.append(float(value.detach()))
        if optimizer.signed and point.grad is not None:
            point.grad.sign_()
        theirs.step()
    return [*values, float(valley(point.detach()))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "optimizer",
    [
        Adam(60, lr=0.03),
        Adam(60, lr=0.1, signed=True, schedule=tenfold_drops),
        Adam(60, lr=0.05, betas=(0.5, 0.9), schedule=cosine),
        Adam(60, lr=0.02, weight_decay=0.1, schedule=WarmCosine(7)),
    ],
    ids=["plain", "signed", "cosine", "decay"],
)
def test_same_bits_as_torch_for_every_restart(optimizer: Adam, dtype: torch.dtype) -> None:
    start = starts(3, dtype)
    ours = minimize(value_and_gradient(valley), start[1:2], optimizer=optimizer, budget=Budget())
    assert ours.trace[:, 0].tolist() == torch_values(start[1], optimizer)

    def one_by_one(points: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [value_and_gradient(valley)(point[None]) for point in points]
        return torch.cat([value for value, _ in pairs]), torch.cat([gradient for _, gradient in pairs])

    together = minimize(one_by_one, start, optimizer=optimizer, budget=Budget())
    for restart in range(3):
        assert together.trace[:, restart].tolist() == torch_values(start[restart], optimizer)


def test_tenfold_drops_are_those_of_torch() -> None:
    steps = 4800
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    milestones = [steps // 2.667, steps // 1.6, steps // 1.142]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=milestones, gamma=0.1)  # pyright: ignore[reportArgumentType]
    for step in range(steps):
        assert tenfold_drops(0.1, step, steps) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
    assert milestones == [1799, 2999, 4203]


def test_schedules_by_hand() -> None:
    assert constant(0.3, 7, 10) == 0.3
    assert cosine(2.0, 0, 10) == 2.0
    assert cosine(2.0, 5, 10) == pytest.approx(1.0)
    warm = WarmCosine(4)
    assert [warm(1.0, step, 14) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert warm(1.0, 4, 14) == 1.0
    assert warm(1.0, 9, 14) == pytest.approx(0.5)
    assert warm(1.0, 13, 14) == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))


def test_box_holds_after_every_step() -> None:
    box = (torch.full((37,), -0.25, dtype=torch.float64), torch.full((37,), 0.5, dtype=torch.float64))
    box[1][3] = torch.inf
    seen: list[Tensor] = []

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(points.clone())
        return (points - 2).square().sum(dim=1), 2 * (points - 2)

    minimize(evaluate, starts(2), optimizer=Adam(200, lr=0.1), budget=Budget(), box=box)
    assert torch.equal(seen[0], starts(2))
    assert all(bool(((points >= box[0]) & (points <= box[1])).all()) for points in seen[1:])
    assert bool((seen[-1][:, :3] == 0.5).all())
    torch.testing.assert_close(seen[-1][:, 3], torch.full((2,), 2.0, dtype=torch.float64), atol=1e-3, rtol=0)


def test_noise_is_seeded_and_each_restart_has_its_own() -> None:
    def run(restarts: int, seed: int) -> Tensor:
        start = torch.zeros((restarts, 37), dtype=torch.float64)
        optimizer = Adam(3, lr=0.1, noise=0.2, noise_seed=seed)
        return minimize(value_and_gradient(valley), start, optimizer=optimizer, budget=Budget()).trace

    assert torch.equal(run(2, 0), run(2, 0))
    assert torch.equal(run(3, 0)[:, :2], run(2, 0))
    assert not torch.equal(run(2, 0)[1:, 0], run(2, 0)[1:, 1])
    assert not torch.equal(run(2, 0), run(2, 1))


def test_noise_has_the_stated_size() -> None:
    start = torch.zeros((1, 40_000), dtype=torch.float64)
    seen: list[Tensor] = []

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(points.clone())
        return points.sum(dim=1), torch.zeros_like(points)

    minimize(evaluate, start, optimizer=Adam(1, lr=0.1, noise=0.2), budget=Budget())
    assert float(seen[1].std()) == pytest.approx(0.02, rel=0.02)
