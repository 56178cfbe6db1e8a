"""Which reconstructed example is compared with which true one.

A gradient carries no order of the batch, so a perfect attack returns the examples shuffled. Pairing puts them in
the order of the truth; the same rule is used for attacks and for baselines.
"""

import numpy as np
import torch
from torch import Tensor

from gradleak.errors import refuse

UNPAIRED = -1
"""The index given to a true example for which no reconstructed one is left."""

# Squared distances from here on are treated like NaN: sums of them would overflow in the assignment.
_OVERFLOW = 1e200


def pair(reconstructed: Tensor, true: Tensor) -> Tensor:
    """Pair `reconstructed` `[M, ...]` with `true` `[N, ...]`, one-to-one with the least sum of squared distances.

    With more reconstructed than true examples the worst are left over. A reconstructed example with an entry that
    is not finite is used only when no other is left.

    Returns:
        For each true example the index of its partner in `reconstructed`, int64 `[N]`, so that
        `reconstructed[pair(...)]` is in true order; -1 for true examples for which no partner is left.

    Raises:
        BadInput: when the examples of the two tensors differ in shape, or one tensor has no axis of examples.

    >>> true = torch.tensor([[0.0], [1.0], [2.0]])
    >>> pair(true[[1, 2, 0]], true).tolist()
    [2, 0, 1]
    """
    _check_shapes(reconstructed, true)
    pairing = torch.full((len(true),), UNPAIRED, dtype=torch.int64)
    if len(reconstructed) == 0 or len(true) == 0:
        return pairing
    from scipy.optimize import linear_sum_assignment  # both are slow to import
    from scipy.spatial.distance import cdist

    # Differences are squared directly: the expansion |a|^2 + |b|^2 - 2ab would lose close examples to rounding.
    cost = cdist(_rows(reconstructed), _rows(true), "sqeuclidean")
    rows, columns = linear_sum_assignment(_with_finite_costs(cost))
    # Row i of `cost` is a reconstructed example, so `rows` holds reconstructed indices. They are stored at the
    # true index: using `columns` as an index into the reconstructions would apply the inverse permutation.
    pairing[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return pairing


def in_true_order(reconstructed: Tensor, pairing: Tensor) -> Tensor:
    """`reconstructed` `[M, ...]` in true order `[N, ...]` as float64 on the CPU, all NaN where `pairing` is -1."""
    ordered = torch.full((len(pairing), *reconstructed.shape[1:]), torch.nan, dtype=torch.float64)
    paired = pairing != UNPAIRED
    ordered[paired] = reconstructed.detach().to("cpu", torch.float64)[pairing[paired]]
    return ordered


def _check_shapes(reconstructed: Tensor, true: Tensor) -> None:
    problems: list[str] = []
    for name, tensor in (("reconstructed", reconstructed), ("true", true)):
        if tensor.ndim < 2:
            problems.append(f"{name}: expected [N, ...], got shape {list(tensor.shape)}; add the axis of examples")
    if not problems and reconstructed.shape[1:] != true.shape[1:]:
        problems.append(
            f"shape of one example: expected {list(true.shape[1:])} as in the truth, got "
            f"{list(reconstructed.shape[1:])}; give reconstructions of the same input space"
        )
    refuse(problems)


def _rows(examples: Tensor) -> np.ndarray:
    return examples.detach().to("cpu", torch.float64).flatten(1).numpy()


def _with_finite_costs(cost: np.ndarray) -> np.ndarray:
    """The costs with unusable ones just above all others: enough to be the last choice, small enough to keep digits."""
    usable = cost < _OVERFLOW  # False for NaN
    worst = float(cost[usable].max()) if usable.any() else 0.0
    return np.where(usable, cost, 2.0 * worst + 1.0)
