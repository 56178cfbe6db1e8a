"""Adam over a stack of restarts, with learning-rate schedules, gradient signs and a box."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.optim.minimize import Box, Proposals

Schedule = Callable[[float, int, int], float]
"""`schedule(lr, step, steps)`: the learning rate of step 0, 1, ... of `steps`."""


def constant(lr: float, step: int, steps: int) -> float:
    """The same learning rate throughout."""
    del step, steps
    return lr


def cosine(lr: float, step: int, steps: int) -> float:
    """From the full learning rate to almost nothing along half a cosine."""
    return 0.5 * lr * (1 + math.cos(math.pi * step / steps))


def tenfold_drops(lr: float, step: int, steps: int) -> float:
    """A tenth after 3/8, 5/8 and 7/8 of the steps each, at the released code's `steps // 2.667, 1.6, 1.142`."""
    for divisor in (2.667, 1.6, 1.142):
        if step >= steps // divisor:
            lr *= 0.1
    return lr


@dataclass(frozen=True)
class WarmCosine:
    """A linear rise to the full learning rate, then half a cosine.

    Args:
        warm_up: number of rising steps.
    """

    warm_up: int = 50

    def __call__(self, lr: float, step: int, steps: int) -> float:
        """The learning rate of one step."""
        if step < self.warm_up:
            return lr * (step + 1) / (self.warm_up + 1)
        return cosine(lr, step - self.warm_up, max(1, steps - self.warm_up))


@dataclass(frozen=True)
class WarmLinear:
    """A linear rise to the full learning rate, then a straight line down to nothing.

    Args:
        warm_up: number of rising steps.
    """

    warm_up: int = 50

    def __call__(self, lr: float, step: int, steps: int) -> float:
        """The learning rate of one step."""
        if step < self.warm_up:
            return lr * step / max(1, self.warm_up)
        return lr * (steps - step) / max(1, steps - self.warm_up)


@dataclass(frozen=True)
class Staircase:
    """A constant factor after every so many steps.

    Args:
        factor: of the learning rate.
        every: steps.
    """

    factor: float
    every: int

    def __call__(self, lr: float, step: int, steps: int) -> float:
        """The learning rate of one step."""
        del steps
        return lr * self.factor ** (step // self.every)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma, Ba 2015), each restart with the bits of its own `torch.optim.Adam`.

    All its operations are entry by entry, so restarts side by side cannot influence each other.

    Args:
        steps: number of steps; one evaluation each, and one more for the last point.
        lr: learning rate before the schedule.
        betas: decay of the two running means.
        epsilon: added to the root of the second mean.
        weight_decay: decoupled weight decay as in `torch.optim.AdamW` (Loshchilov, Hutter 2019); 0 for none.
        signed: feed the sign of the gradient instead of the gradient (Geiping et al. 2020).
        schedule: see `Schedule`.
        clip: largest norm of each restart's gradient, as `torch.nn.utils.clip_grad_norm_` keeps it; None for no limit.
        revise: called with the number of a step and the points `[restarts, D]` before each; may return others, from
            which the course goes on with its running means; None for none.
        noise: each step adds `noise * lr * N(0, 1)` (Langevin; Yin et al. 2021); 0 for none.
        noise_seed: seed of that noise; every restart has a stream of its own.
    """

    steps: int
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    signed: bool = False
    schedule: Schedule = constant
    clip: float | None = None
    revise: Callable[[int, Tensor], Tensor] | None = None
    noise: float = 0.0
    noise_seed: int = 0

    def propose(self, start: Tensor, box: Box | None = None) -> Proposals:
        """See `Optimizer.propose`; a box is kept by projection after each step."""
        first, second = self.betas
        revise = self.revise
        point = start.clone()
        mean, square = torch.zeros_like(start), torch.zeros_like(start)
        streams = [torch.Generator().manual_seed(self.noise_seed + 7919 * row) for row in range(len(start))]
        for step in range(self.steps):
            point = point if revise is None else revise(step, point)
            _, gradient = yield point
            if self.clip is not None:
                norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
                gradient = gradient * (self.clip / (norms + 1e-6)).clamp(max=1.0)
            if self.signed:
                gradient = gradient.sign()
            lr = self.schedule(self.lr, step, self.steps)
            # Operation for operation as torch, which rounds differently when the terms are grouped otherwise.
            mean = mean.lerp(gradient, 1 - first)
            square = (square * second).addcmul_(gradient, gradient, value=1 - second)
            root = (square.sqrt() / (1 - second ** (step + 1)) ** 0.5).add_(self.epsilon)
            point = point * (1 - lr * self.weight_decay) if self.weight_decay else point.clone()
            point.addcdiv_(mean, root, value=-(lr / (1 - first ** (step + 1))))
            if self.noise:
                draws = [torch.randn(start.shape[1], generator=stream, dtype=torch.float64) for stream in streams]
                point.add_(torch.stack(draws).to(point), alpha=self.noise * lr)
            if box is not None:
                point.clamp_(*box)
        yield point
