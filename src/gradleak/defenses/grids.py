"""The values that a number format can hold: rounding to them, and the cells that rounding leaves.

Everything is computed in float64, in which the values of all formats, their spacings and midpoints are exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Format = Literal["fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8", "int4"]


@dataclass(frozen=True)
class Grid:
    """A symmetric set of values: multiples of a smallest step, coarser for larger numbers if it is a float format.

    Attributes:
        largest: value.
        smallest: step, that between zero and its neighbor.
        bits: of the mantissa; None for integers, whose step is the same everywhere.
    """

    largest: float
    smallest: float
    bits: int | None = None

    def step(self, values: Tensor) -> Tensor:
        """Distance to the next value away from zero, at each value.

        Args:
            values: float64, of any shape, on the grid or not.

        Returns:
            Powers of two, of the same shape.
        """
        if self.bits is None:
            return torch.full_like(values, self.smallest)
        # |v| = f * 2^e with f in [1/2, 1), so that its leading bit stands for 2^(e-1).
        exponent = torch.frexp(values.detach()).exponent.to(values) - 1 - self.bits
        return torch.where(values == 0, self.smallest, torch.exp2(exponent).clamp(min=self.smallest))

    def nearest(self, values: Tensor) -> Tensor:
        """The nearest value of the grid, ties to even; beyond the largest, the largest."""
        within = values.clamp(-self.largest, self.largest)
        step = self.step(within)
        return ((within / step).round() * step).clamp(-self.largest, self.largest)

    def stochastic(self, values: Tensor, uniform: Tensor) -> Tensor:
        """One of the two neighbors, with probabilities that make the mean exact within the largest value.

        Args:
            values: float64.
            uniform: draws from [0, 1), of the same shape.

        Returns:
            Values of the grid.
        """
        within = values.clamp(-self.largest, self.largest)
        step = self.step(within)
        below = (within / step).floor()
        return ((below + (uniform < within / step - below)) * step).clamp(-self.largest, self.largest)

    def below(self, values: Tensor) -> Tensor:
        """The next lower value of the grid, for values on it; `-inf` below the lowest."""
        # Just inside a power of two the step is that of the smaller numbers.
        step = self.step(torch.where(values > 0, values * (1 - 2**-30), values))
        return torch.where(values <= -self.largest, -torch.inf, values - step)

    def above(self, values: Tensor) -> Tensor:
        """The next higher value of the grid, for values on it; `inf` above the highest."""
        return -self.below(-values)


GRIDS: Mapping[Format, Grid] = {
    "fp16": Grid(65504.0, 2.0**-24, 10),
    "bf16": Grid(float(torch.finfo(torch.bfloat16).max), 2.0**-133, 7),
    "fp8_e4m3": Grid(448.0, 2.0**-9, 3),
    "fp8_e5m2": Grid(57344.0, 2.0**-16, 2),
    "int8": Grid(127.0, 1.0),
    "int4": Grid(7.0, 1.0),
}
"""The formats by name; the 8-bit floats are those of Micikevicius et al. 2022 and `torch.float8_e4m3fn`, `_e5m2`."""
