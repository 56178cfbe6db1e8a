"""Small nonlinear least squares at the end of a narrow curved valley."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

Linearize = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a point `[D]` to residuals `[M]` and their Jacobian `[M, D]`."""

_FIRST_DAMPING = 1e-2
_LAST_DAMPING = 1e12
# Where along the step the curvature is probed, and the largest correction by it relative to the step (Transtrum,
# Sethna 2012, section 4).
_PROBE = 0.1
_MOST_BEND = 0.75


def follow_valley(
    residuals: Callable[[Tensor], Tensor],
    linearize: Linearize,
    start: Tensor,
    *,
    gain: float = 1e-6,
    steps: int = 600,
    deadline: float = math.inf,
) -> tuple[Tensor, float]:
    """Levenberg-Marquardt with geodesic acceleration (Transtrum, Sethna 2012, equation 8).

    A second-order correction bends each step along the valley, where the plain method creeps.

    Args:
        residuals: of a point `[D]`.
        linearize: residuals and their Jacobian.
        start: first point `[D]`.
        gain: relative decrease of the sum of squares below which it ends.
        steps: factorizations at most.
        deadline: reading of `time.perf_counter` after which it ends.

    Returns:
        The last point, and its sum of squares.
    """
    point, damping = start, _FIRST_DAMPING
    residual, jacobian = linearize(point)
    normal, cost = jacobian.T @ jacobian, float(residual @ residual)
    for _ in range(steps):
        diagonal = normal.diagonal().clamp(min=1e-14 * float(normal.diagonal().max()))
        factor, failed = torch.linalg.cholesky_ex(normal + damping * torch.diag(diagonal))
        if damping > _LAST_DAMPING or time.perf_counter() >= deadline:
            break
        step = -torch.cholesky_solve((jacobian.T @ residual)[:, None], factor)[:, 0]
        bend = (residuals(point + _PROBE * step) - residual) / _PROBE - jacobian @ step
        correction = -torch.cholesky_solve((jacobian.T @ bend)[:, None], factor)[:, 0] / _PROBE
        bent = float((diagonal * correction.square()).sum() / (diagonal * step.square()).sum()) ** 0.5
        trial = point + step + correction
        if int(failed) or not 4 * bent < _MOST_BEND or not float(residuals(trial).square().sum()) < cost:
            damping *= 3.0
            continue
        point, damping = trial, max(damping / 3.0, 1e-14)
        residual, jacobian = linearize(point)
        normal, before, cost = jacobian.T @ jacobian, cost, float(residual @ residual)
        if before - cost < gain * before:
            break
    return point, cost
