"""Federated averaging's client: local steps of stochastic gradient descent."""

from dataclasses import dataclass

from torch import Tensor

from gradleak.clients.local_training import LocalTraining, Memory, Named
from gradleak.tasks import Task


@dataclass(frozen=True, kw_only=True)
class LocalSGD(LocalTraining):
    """Local steps of SGD, step for step as `torch.optim.SGD`; one step without extras sends `-lr * gradient`.

    Args:
        momentum: in [0, 1).
        dampening: of the momentum.
        nesterov: Nesterov's momentum, which needs a momentum and no dampening.
        weight_decay: added to the gradient, times the weights; at least 0.
        proximal: FedProx: `proximal * (w - w_before)` is added to the gradient (Li et al. 2020); at least 0.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    proximal: float = 0.0

    def problems(self, task: Task) -> list[str]:
        """Settings outside their range or against each other, one line each."""
        problems = super().problems(task)
        if not 0 <= self.momentum < 1:
            problems.append(f"client.momentum: expected a number in [0, 1), got {self.momentum}; 0 is none")
        for name, value in (("weight_decay", self.weight_decay), ("proximal", self.proximal)):
            if not 0 <= value < float("inf"):
                problems.append(f"client.{name}: expected a finite number of at least 0, got {value}; 0 is none")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            problems.append(
                "client.nesterov: expected a momentum above 0 and no dampening, "
                f"got momentum {self.momentum} and dampening {self.dampening}; correct them"
            )
        return problems

    def rule(self, parameters: Named, gradients: Named, memory: Memory, step: int) -> tuple[dict[str, Tensor], Memory]:
        """See `LocalTraining.rule`."""
        after: dict[str, Tensor] = {}
        velocity: dict[str, Tensor] = {}
        start = memory.get("start", parameters)
        for name, gradient in gradients.items():
            weight = parameters[name]
            if self.proximal:
                gradient = gradient + self.proximal * (weight - start[name])
            if self.weight_decay:
                gradient = gradient + self.weight_decay * weight
            if self.momentum:
                first = step == 1
                velocity[name] = (
                    gradient if first else self.momentum * memory["velocity"][name] + (1 - self.dampening) * gradient
                )
                gradient = gradient + self.momentum * velocity[name] if self.nesterov else velocity[name]
            after[name] = weight - self.lr * gradient
        return after, {"velocity": velocity, **({"start": start} if self.proximal else {})}
