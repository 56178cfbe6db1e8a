"""Preconditioned conjugate gradients for symmetric positive definite operators."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
"""A symmetric positive (semi)definite linear map between tensors of one shape."""

# Looking at the stopping rule waits for the device and costs as much as a small product, so not every step looks.
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
    precondition: Operator = preconditioner if preconditioner is not None else (lambda residual: residual)
    x = start
    residual = right_side - operator(x)
    direction = precondition(residual)
    present = torch.sum(residual * direction)
    goal = max(energy, relative_energy * float(present))
    steps = 0
    while steps < max_steps:
        if steps % _CHECK_EVERY == 0 and not float(present) > goal:
            break
        product = operator(direction)
        length = present / torch.sum(direction * product)
        x = x + length * direction
        residual = residual - length * product
        corrected = precondition(residual)
        following = torch.sum(residual * corrected)
        direction = corrected + (following / present) * direction
        present = following
        steps += 1
    return Solution(x, steps, float(present))
