"""How many directions of a gradient stand out of its errors."""

import torch
from torch import Tensor

# Largest singular value of noise, in units of its expected edge (Marchenko and Pastur 1967).
_EDGE_SAFETY = 1.1
# Where the noise is unknown, signal and noise must be this factor apart, and this many values be noise.
_DROP = 1.1
_SMALLEST_TAIL = 5


def numerical_rank(values: Tensor, rows: int) -> int:
    """How many singular values are above the largest that noise alone has, `sqrt(m) + sqrt(n)`.

    Args:
        values: all n singular values of a matrix `[m, n]`, in units of the noise in its entries.
        rows: m.

    Returns:
        The rank.
    """
    return int((values > _EDGE_SAFETY * (rows**0.5 + len(values) ** 0.5)).sum())


def rank_above_unknown_noise(values: Tensor, rows: int) -> tuple[int, float]:
    """Where singular values drop to what looks like noise of some size.

    Args:
        values: all n singular values of a matrix `[m, n]`, descending.
        rows: m.

    Returns:
        The rank, `min(m, n)` where no such place is found, and the noise in an entry.
    """
    width, most = len(values), min(rows, len(values))
    best, scale, largest = most, 1.0, _DROP
    for count in range(1, most - _SMALLEST_TAIL):
        noise = (float(values[count:].square().sum()) / ((rows - count) * (width - count))) ** 0.5
        edge = noise * ((rows - count) ** 0.5 + (width - count) ** 0.5)
        ratio = float(values[count - 1] / values[count])
        # What is below the edge begins near it.
        if ratio > largest and 0.8 * edge < float(values[count]) < _EDGE_SAFETY * edge:
            best, scale, largest = count, noise, ratio
    return best, scale


def right_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """All n singular values, zeros included, descending, and all right singular vectors as rows `[n, n]`."""
    rows, width = matrix.shape
    if rows > width:
        matrix = torch.linalg.qr(matrix, mode="r").R
    _, values, right = torch.linalg.svd(matrix, full_matrices=True)
    return torch.cat([values, values.new_zeros(width - len(values))]), right
