"""Two searches one after the other, L-BFGS and Levenberg-Marquardt, that share what is left of a budget."""

import math
import time
from dataclasses import dataclass, replace

from torch import Tensor

from gradleak.optim import Budget, LevenbergMarquardt, Limits, Moment, WolfeLBFGS, minimize, value_and_gradient
from gradleak.optim.gauss_newton import Residual

# Up to this many unknowns one dense Jacobian takes less than a second; it resolves saturated layers best.
_DENSE = 1000
# Far below what float32 updates determine.
_EXPLAINED = 1e-16


@dataclass
class Purse:
    """What is left of the budget, and what was spent.

    Attributes:
        evaluations: that may be spent in all; None for no limit.
        ends: reading of `time.perf_counter` at which to stop; infinite for never.
        used: evaluations and Jacobian products so far.
    """

    evaluations: int | None
    ends: float
    used: int = 0

    def allowed(self, wanted: int) -> int:
        """Evaluations that may be spent now, at most `wanted`."""
        return wanted if self.evaluations is None else max(0, min(wanted, self.evaluations - self.used))

    def seconds(self, share: float = 1.0) -> float | None:
        """Seconds that may be spent now."""
        return None if math.isinf(self.ends) else max(0.0, share * (self.ends - time.perf_counter()))

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return self.allowed(1) == 0 or self.seconds() == 0


def search(
    residual: Residual, start: Tensor, evaluations: int, products: int, purse: Purse
) -> tuple[Tensor, float, tuple[Moment, ...]]:
    """L-BFGS, then Levenberg-Marquardt; returns the point, its sum of squares, and moments of the first."""
    if purse.empty:
        return start, math.inf, ()
    before = purse.used
    ended = minimize(
        value_and_gradient(lambda point: residual(point).square().sum()),
        start[None],
        optimizer=WolfeLBFGS(),
        budget=Budget(evaluations=purse.allowed(evaluations), seconds=purse.seconds(), target=_EXPLAINED),
        moments=24,
    )
    purse.used += ended.evaluations
    moments = tuple(replace(moment, evaluations=before + moment.evaluations) for moment in ended.moments)
    if purse.empty:
        return ended.points[0], float(ended.values[0]), moments
    point, value = least_squares(residual, ended.points[0], products, purse)
    return point, value, moments


def least_squares(
    residual: Residual, start: Tensor, products: int, purse: Purse, share: float = 1.0
) -> tuple[Tensor, float]:
    """Levenberg-Marquardt within a share of the seconds left; returns the point and its sum of squares."""
    products = purse.allowed(products)
    dense = len(start) <= min(_DENSE, products)
    # A dense Jacobian cannot be interrupted, and costs one product for each unknown.
    limit = products - len(start) + 1 if dense else products
    solver = LevenbergMarquardt(dense_below=_DENSE if dense else 0, steps=100, inner_products=300)
    limits = Limits(products=limit, seconds=purse.seconds(share), target=_EXPLAINED)
    ended = solver.minimize(residual, start, limits)
    purse.used += ended.evaluations + ended.products
    return ended.point, ended.value
