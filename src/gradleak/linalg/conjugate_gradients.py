"""Preconditioned conjugate gradients for symmetric positive definite operators."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
"""A symmetric positive (semi)definite linear map between tensors of one shape."""

Correction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a residual r: `P r`, with an approximate inverse P of the operator A, and `A P r`."""

# Looking at the stopping rule waits for an accelerator and costs as much as a small product there.
_CHECK_EVERY = 5


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the iteration ended.

    Attributes:
        x: the solution.
        steps: operator products used.
        energy: estimate of `e^T A e` for the remaining error e, by the preconditioner: `r^T P r`.
    """

    x: Tensor
    steps: int
    energy: float


def conjugate_gradients(
    operator: Operator,
    right_side: Tensor,
    start: Tensor,
    *,
    preconditioner: Operator | None = None,
    energy: float = 0.0,
    relative_energy: float = 1e-24,
    max_steps: int = 1000,
) -> Solution:
    """Solve `A x = b` (Hestenes and Stiefel 1952; Nocedal, Wright, *Numerical Optimization*, algorithm 5.3).

    Args:
        operator: A.
        right_side: b, any shape.
        start: first guess, of the same shape.
        preconditioner: approximate inverse of A; the identity if not given.
        energy: stop when `r^T P r` is at most this. Where A holds inverse variances of the equations behind b, the
            statistical error has an energy of about the number of unknowns, and going far below it is in vain.
        relative_energy: stop when it is at most this share of its first value.
        max_steps: operator products at most.

    Returns:
        The last iterate; it is not finite if A is not positive definite.
    """

    def correction(residual: Tensor) -> tuple[Tensor, Tensor]:
        step = residual if preconditioner is None else preconditioner(residual)
        return step, operator(step)

    found = corrected(
        correction,
        right_side - operator(start),
        energy=energy,
        relative_energy=relative_energy,
        max_steps=max_steps,
    )
    return Solution(start + found.x, found.steps, found.energy)


def corrected(
    correction: Correction,
    right_side: Tensor,
    *,
    energy: float = 0.0,
    relative_energy: float = 1e-24,
    max_steps: int = 1000,
    deadline: float = math.inf,
) -> Solution:
    """The same from zero, where one map gives the preconditioned residual and its product with A together.

    The product with the search direction follows by the recurrence of the direction itself (Chronopoulos and Gear
    1989), so that a preconditioner which shares a part with A spares the product with that part.

    Args:
        correction: the map.
        right_side: b, any shape.
        energy: as in `conjugate_gradients`.
        relative_energy: likewise.
        max_steps: likewise.
        deadline: reading of `time.perf_counter` after which it stops.

    Returns:
        The last iterate; it is not finite if A is not positive definite.
    """
    every = 1 if right_side.device.type == "cpu" else _CHECK_EVERY
    x, residual = torch.zeros_like(right_side), right_side
    direction, product = correction(residual)
    present = torch.sum(residual * direction)
    goal = max(energy, relative_energy * float(present))
    steps = 0
    while steps < max_steps:
        if steps % every == 0 and (not float(present) > goal or time.perf_counter() >= deadline):
            break
        length = present / torch.sum(direction * product)
        x = torch.addcmul(x, length, direction)
        residual = torch.addcmul(residual, length, product, value=-1)
        step, image = correction(residual)
        following = torch.sum(residual * step)
        share = following / present
        direction = torch.addcmul(step, share, direction)
        product = torch.addcmul(image, share, product)
        present = following
        steps += 1
    return Solution(x, steps, float(present))
