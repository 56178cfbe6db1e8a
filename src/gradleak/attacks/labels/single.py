"""The label of one example from the sign of the classifier's gradient."""

from torch import Tensor


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
