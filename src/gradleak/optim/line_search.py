"""Strong-Wolfe line search of one restart, written as a generator that asks for evaluations."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

Move = Callable[[float], tuple[Tensor, Tensor]]
"""From a step length to the point there `[D]` and the direction of travel at it `[D]`."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One evaluated point of a line search.

    Attributes:
        length: step length along the direction.
        value: of the function; infinite where value or slope is not finite.
        slope: derivative along the direction of travel.
        point: `[D]`.
        gradient: `[D]`.
    """

    length: float
    value: float
    slope: float
    point: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class StrongWolfe:
    """Accepts a step t with `f(t) <= f(0) + c1 t f'(0)` and `|f'(t)| <= c2 |f'(0)|`.

    Bracketing and zoom with cubic interpolation (Nocedal, Wright, *Numerical Optimization*, algorithms 3.5 and 3.6,
    equation 3.59). Nothing is compared with an absolute number, so multiplying the function by a constant changes
    nothing.

    Args:
        sufficient_decrease: c1.
        curvature: c2.
        max_evaluations: largest number of trials.
    """

    sufficient_decrease: float = 1e-4
    curvature: float = 0.9
    max_evaluations: int = 20

    def search(
        self, start: Trial, first_length: float, move: Move
    ) -> Generator[Tensor, tuple[Tensor, Tensor], tuple[Trial, bool]]:
        """Search along one direction.

        Args:
            start: the trial of length 0; its slope is negative.
            first_length: length of the first trial.
            move: the path to search along.

        Yields:
            Points to evaluate.

        Returns:
            The accepted trial and True, or the lowest one found, which may be `start` itself, and False.
        """
        low, high, length, near_an_end = start, None, first_length, False
        for _ in range(self.max_evaluations):
            trial = yield from _evaluated(length, move)
            enough = trial.value <= start.value + self.sufficient_decrease * length * start.slope
            previous = low
            if not enough or trial.value >= low.value:
                high = trial
            elif abs(trial.slope) <= -self.curvature * start.slope:
                return trial, True
            else:
                if trial.slope * ((high.length if high else math.inf) - low.length) >= 0:
                    high = low
                low = trial
            if high is None:
                length = _beyond(previous, trial)
            else:
                length, near_an_end = _between(low, high, near_an_end)
                if length in {low.length, high.length}:  # the bracket has shrunk to rounding
                    break
        return low, False


def _evaluated(length: float, move: Move) -> Generator[Tensor, tuple[Tensor, Tensor], Trial]:
    """The trial of one length."""
    point, travel = move(length)
    value, gradient = yield point
    # Both numbers in one transfer: each waits for the device.
    number, slope = torch.stack([value, gradient.dot(travel)]).tolist()
    if not (math.isfinite(number) and math.isfinite(slope)):
        number, slope = math.inf, math.nan
    return Trial(length, number, slope, point, gradient)


def _cubic_minimum(one: Trial, other: Trial) -> float:
    """Minimizer of the cubic through two values and slopes, NaN if it has none (Nocedal, Wright, equation 3.59)."""
    width = other.length - one.length
    d1 = one.slope + other.slope - 3 * (one.value - other.value) / (one.length - other.length)
    square = d1 * d1 - one.slope * other.slope
    if not (math.isfinite(square) and square >= 0):
        return math.nan
    d2 = math.copysign(math.sqrt(square), width)
    bottom = other.slope - one.slope + 2 * d2
    return other.length - width * ((other.slope + d2 - d1) / bottom) if bottom else math.nan


def _beyond(previous: Trial, last: Trial) -> float:
    """The next length while the minimum is not bracketed."""
    nearest, farthest = last.length + 0.01 * (last.length - previous.length), 10 * last.length
    guess = _cubic_minimum(previous, last)
    return min(max(guess, nearest), farthest) if math.isfinite(guess) else farthest


def _between(low: Trial, high: Trial, near_an_end: bool) -> tuple[float, bool]:
    """The next length inside a bracket, and whether it is close to an end, which is allowed once in a row."""
    left, right = sorted((low.length, high.length))
    guess = _cubic_minimum(low, high)
    if not (math.isfinite(guess) and left <= guess <= right):
        return 0.5 * (left + right), False
    margin = 0.1 * (right - left)
    if left + margin <= guess <= right - margin:
        return guess, False
    if near_an_end or guess in {left, right}:
        return (right - margin if right - guess < guess - left else left + margin), False
    return guess, True
