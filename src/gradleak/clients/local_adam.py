"""Local training with Adam."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.clients.local_training import LocalTraining, Memory, Named
from gradleak.tasks import Task


@dataclass(frozen=True, kw_only=True)
class LocalAdam(LocalTraining):
    """Local steps of Adam (Kingma, Ba 2015), step for step as `torch.optim.Adam`.

    After one step the update is nearly `-lr` times the sign of the gradient: sizes are gone, signs stay.

    Args:
        betas: decay of the two running means, each in [0, 1).
        epsilon: added to the root of the second mean, above 0.
        weight_decay: at least 0.
        decoupled: shrink the weights as `torch.optim.AdamW` does (Loshchilov, Hutter 2019), instead of adding
            `weight_decay` times the weights to the gradient.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def problems(self, task: Task) -> list[str]:
        """Settings outside their range, one line each."""
        problems = super().problems(task)
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"client.betas: expected two numbers in [0, 1), got {self.betas}; (0.9, 0.999) is usual")
        if not 0 < self.epsilon < float("inf"):
            problems.append(f"client.epsilon: expected a finite number above 0, got {self.epsilon}; 1e-8 is usual")
        if not 0 <= self.weight_decay < float("inf"):
            problems.append(f"client.weight_decay: expected at least 0, got {self.weight_decay}; 0 is none")
        return problems

    def rule(self, parameters: Named, gradients: Named, memory: Memory, step: int) -> tuple[dict[str, Tensor], Memory]:
        """See `LocalTraining.rule`."""
        first, second = self.betas
        after: dict[str, Tensor] = {}
        means: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            weight = parameters[name]
            if self.weight_decay and self.decoupled:
                weight = weight * (1 - self.lr * self.weight_decay)
            elif self.weight_decay:
                gradient = gradient + self.weight_decay * weight
            means[name] = (1 - first) * gradient
            squares[name] = (1 - second) * gradient.square()
            if step > 1:
                means[name] = means[name] + first * memory["means"][name]
                squares[name] = squares[name] + second * memory["squares"][name]
            # The root's derivative at zero is infinite, and an entry without any gradient has nothing to say.
            seen = squares[name] > 0
            root = torch.where(seen, torch.where(seen, squares[name], 1).sqrt(), 0)
            size = root / (1 - second**step) ** 0.5 + self.epsilon
            after[name] = weight - self.lr / (1 - first**step) * means[name] / size
        return after, {"means": means, "squares": squares}
