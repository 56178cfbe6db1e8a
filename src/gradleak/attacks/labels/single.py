"""The label of one example from the sign of the classifier's gradient."""

import torch
from torch import Tensor

# Rows of the classifier's gradient that are at least this share of the largest count as equally large.
_ALIKE = 0.99


def row_sum_sign(weight_gradient: Tensor) -> int:
    """The class of a single example: the one row of the classifier's gradient with a negative sum.

    The rows of the weight gradient are `(p_c - y_c) o`, negative only for the true class as long as the features o
    that enter the classifier are not negative (Zhao, Mopuri, Bilen 2020, equation 4; the released code takes the
    smallest row sum, as here).

    Args:
        weight_gradient: `[C, D]`, of one example.

    Returns:
        The class index.
    """
    return int(weight_gradient.sum(dim=1).argmin())


def bias_sign(bias_gradient: Tensor) -> int:
    """The class of a single example: the one negative entry of the classifier's bias gradient `p - y`.

    Unlike `row_sum_sign` it needs no condition on the features.

    Args:
        bias_gradient: `[C]`, of one example.

    Returns:
        The class index.
    """
    return int(bias_gradient.argmin())


def leading_row(weight_gradient: Tensor, bias_gradient: Tensor | None = None) -> int:
    """The class of a single example from all of the classifier's gradient, for updates that were defended.

    The gradient is the rank-one `(p - y) [o, 1]^T`, in which the true class has the largest row: minus the sum of all
    others. The leading singular vector averages noise over all entries, where `bias_sign` reads one column. Where
    rows are about equally large, as under signs, the column sums decide.

    Args:
        weight_gradient: `[C, D]`, of one example.
        bias_gradient: `[C]`, or None.

    Returns:
        The class index.
    """
    column = None if bias_gradient is None else bias_gradient.double()
    rows = weight_gradient.double()
    together = rows if column is None else torch.cat([rows, column[:, None]], dim=1)
    sizes = torch.linalg.svd(together, full_matrices=False)[0][:, 0].abs()
    deciding = column if column is not None and bool(column.any()) else rows.sum(dim=1)
    return int(torch.where(sizes >= _ALIKE * sizes.max(), deciding, torch.inf).argmin())
