"""A client that sends a linear function of its batch, for which the best unbiased estimate is known."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.clients import Simulate
from gradleak.tasks import ModelState


@dataclass(frozen=True, eq=False)
class Linear:
    """Sends `A x`."""

    matrix: Tensor
    kind: gl.updates.UpdateKind = "gradient"

    def problems(self, task: gl.Task) -> list[str]:
        del task
        return []

    def bind(self, task: gl.Task, state: ModelState, generator: torch.Generator | None = None) -> Simulate:
        del task, state, generator

        def simulate(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            del target_probabilities
            return {"weight": (self.matrix @ variable.flatten())[:, None]}

        return simulate


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Model(nn.Module):
    """One parameter with an entry for each equation, under the name that `Linear` sends."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, 1, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return rows.sum(dim=1, keepdim=True) @ self.weight.T


def problem(rows: int, columns: int, seed: int = 0) -> tuple[gl.Task, Tensor, Tensor, Linear]:
    """A task, one row of inputs, its label, and the client."""
    task = gl.Task(Model(rows), gl.TabularSpace(columns), num_classes=rows)
    inputs = torch.rand(1, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return task, inputs, torch.tensor([0]), Linear(random(rows, columns, seed=seed + 1))
