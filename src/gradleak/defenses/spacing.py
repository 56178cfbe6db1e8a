"""The unit of which all sent values are multiples, found from the values themselves."""

import torch
from torch import Tensor


def smallest_spacing(values: Tensor) -> Tensor:
    """Smallest distance between the absolute values, zero among them, that rounding errors do not explain.

    Where all values are multiples of one unit this is a multiple of the unit too, and most often the unit: that takes
    two values one level apart, or one at the lowest level. It is never less, which is what cells need to be safe.

    Args:
        values: of any shape.

    Returns:
        A scalar above 0; infinity where no value differs from zero.
    """
    sizes = torch.cat([values.new_zeros(1), values.abs().flatten()]).sort().values
    gaps = sizes.diff()
    slack = 8 * torch.finfo(torch.float32).eps * sizes.max()
    found = torch.where(gaps > slack, gaps + slack, torch.inf)
    return found.min() if found.numel() else values.new_tensor(torch.inf)
