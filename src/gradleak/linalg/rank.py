"""How many directions a matrix holds beyond the rounding of its entries."""

import torch
from torch import Tensor

# Safety over the spectral norm of independent rounding errors, for sums that were themselves rounded.
_ROUNDING_SAFETY = 16.0


def singular_values_above_rounding(matrix: Tensor) -> int:
    """Numerical rank: how many singular values exceed what rounding of the matrix's entries can make.

    Args:
        matrix: `[m, n]` in the precision in which it was shared.

    Returns:
        The rank; for a linear layer's gradient at least the number of examples that it was made from, unless that
        is larger than m or n or examples left no trace.
    """
    values = torch.linalg.svdvals(matrix.double())
    rows, columns = matrix.shape
    rms = float(matrix.double().square().mean().sqrt())
    floor = _ROUNDING_SAFETY * torch.finfo(matrix.dtype).eps * rms * (rows**0.5 + columns**0.5)
    # The decomposition itself, in float64, is no more exact than this share of the largest value.
    floor = max(floor, 16 * _ROUNDING_SAFETY * torch.finfo(torch.float64).eps * float(values[0]))
    return int((values > floor).sum())
