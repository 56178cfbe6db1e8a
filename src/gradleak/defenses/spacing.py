"""The unit of which all sent values are multiples, found from the values themselves."""

import torch
from torch import Tensor


def largest_unit(lower: Tensor, upper: Tensor, rounding: float) -> Tensor:
    """The largest unit of which what was sent can be multiples.

    Values that are known exactly are at least one unit apart where they differ, and so is any value from zero. The
    result is never less than the unit, which is what safe cells need, and it is the unit itself where two exact values
    are one level apart. Differences that rounding errors explain do not count.

    Args:
        lower: smallest possible values of what was sent, float64, of any shape.
        upper: largest possible values.
        rounding: relative rounding error of the type in which it was sent.

    Returns:
        A scalar above 0; infinity where nothing is known to differ from zero.
    """
    exact = lower == upper
    sizes = torch.cat([lower.new_zeros(1), torch.where(exact, lower.abs(), 0).flatten()]).sort().values
    gaps = sizes.diff()
    slack = 8 * max(rounding, torch.finfo(torch.float32).eps) * sizes.max()
    apart = torch.where(gaps > slack, gaps + slack, torch.inf)
    certain = (lower > 0) | (upper < 0)
    from_zero = torch.where(certain, torch.maximum(lower.abs(), upper.abs()), torch.inf).flatten()
    return torch.cat([apart, from_zero, lower.new_full((1,), torch.inf)]).min()
