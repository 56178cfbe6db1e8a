"""L-BFGS against `torch.optim.LBFGS`, evaluation for evaluation."""

import pytest
import torch
from torch import Tensor

from gradleak.optim import LBFGS, Budget, minimize, value_and_gradient
from gradleak.seeds import stage_generator


def rosenbrock(point: Tensor) -> Tensor:
    return (100 * (point[1:] - point[:-1].square()).square() + (1 - point[:-1]).square()).sum() / 200


def torch_values(start: Tensor, outer_steps: int, **settings: float) -> list[float]:
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([point], **settings)  # pyright: ignore[reportArgumentType]
    values: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = rosenbrock(point)
        value.backward()
        values.append(float(value.detach()))
        return value

    for _ in range(outer_steps):
        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("history", "inner"), [(100, 20), (5, 20), (100, 4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_same_bits_as_torch(seed: int, history: int, inner: int, dtype: torch.dtype) -> None:
    start = torch.randn(12, generator=stage_generator(seed, "start"), dtype=torch.float64).to(dtype)
    ours = minimize(
        value_and_gradient(rosenbrock),
        start[None],
        optimizer=LBFGS(outer_steps=15, inner_steps=inner, history=history, lr=0.3),
        budget=Budget(),
    )
    theirs = torch_values(start, 15, lr=0.3, max_iter=inner, history_size=history)
    assert ours.trace[:, 0].tolist() == theirs


def test_a_block_moves_only_in_its_own_turn() -> None:
    start = torch.randn((1, 12), generator=stage_generator(0, "start"), dtype=torch.float64)
    seen: list[Tensor] = []

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(points[0])
        return value_and_gradient(rosenbrock)(points)

    minimize(evaluate, start, optimizer=LBFGS(outer_steps=3, inner_steps=5, blocks=3, lr=0.3), budget=Budget())
    changed = [(b - a).view(3, 4).abs().sum(dim=1) > 0 for a, b in zip(seen, seen[1:], strict=False)]
    moved = [row.nonzero().flatten().tolist() for row in changed]
    assert moved == [[0]] * 5 + [[1]] * 5 + [[2]] * 4  # the last inner step of the last outer step is not evaluated
