"""Run one optimizer, written for a single point, from many starts side by side."""

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from gradleak.optim.minimize import Proposals

PointProposals = Generator[Tensor, tuple[Tensor, Tensor], None]
"""Yields a point `[D]`, receives its value (scalar) and gradient `[D]`."""


def lockstep(start: Tensor, propose: Callable[[Tensor], PointProposals]) -> Proposals:
    """Evaluate the present points of all restarts together, each restart following its own optimizer.

    A restart whose optimizer has ended waits at its last point. No restart sees another one's numbers, so perturbing
    one leaves the others bit-identical as far as the evaluation itself does.

    Args:
        start: `[restarts, D]`.
        propose: the optimizer of one restart, from its start `[D]`.

    Yields:
        Points `[restarts, D]`.
    """
    optimizers = [propose(row) for row in start]
    running = list(range(len(optimizers)))
    points = [next(optimizer) for optimizer in optimizers]
    while running:
        values, gradients = yield torch.stack(points)
        for restart in tuple(running):
            try:
                points[restart] = optimizers[restart].send((values[restart], gradients[restart]))
            except StopIteration:
                running.remove(restart)
