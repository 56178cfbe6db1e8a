"""Published rules for the labels of a batch, each a pure function of the classifier's gradient.

They hold under conditions that the update does not show; `recover_counts` is the rule to rely on. Gradients are
those of the plain cross-entropy averaged over the batch, with the sign of a gradient.
"""

import torch
from torch import Tensor

from gradleak.errors import refuse


def round_counts(estimates: Tensor, batch_size: int) -> Tensor:
    """Whole counts that sum to the batch size and lie near the estimates.

    Floor first; then one more where the remainder is largest, or one fewer where it is smallest among the classes
    that still have an example, until the sum is right.

    Args:
        estimates: `[C]`, any real numbers; negative ones count as 0.
        batch_size: the sum wanted.

    Returns:
        Counts `[C]`, int64.

    Raises:
        BadInput: when the batch size is negative or an estimate is not finite.

    >>> round_counts(torch.tensor([0.6, 1.3, -0.2]), 2).tolist()
    [1, 1, 0]
    >>> round_counts(torch.tensor([2.1, 2.9, 1.0]), 3).tolist()
    [1, 2, 0]
    """
    problems = [f"batch_size: expected at least 0, got {batch_size}; give the number of examples"][: batch_size < 0]
    if not bool(torch.isfinite(estimates).all()):
        problems.append("estimates: expected finite numbers, got NaN or infinity; check the update")
    refuse(problems)
    values = estimates.double()
    counts = values.floor().clamp(min=0)
    while int(counts.sum()) < batch_size:
        counts[int((values - counts).argmax())] += 1
    while int(counts.sum()) > batch_size:
        room = torch.where(counts > 0, values - counts, torch.inf)
        counts[int(room.argmin())] -= 1
    return counts.long()


def present_by_bias_sign(bias_gradient: Tensor) -> Tensor:
    """Classes with a negative bias gradient; each is certainly present, others may be too.

    `db_c = mean(p_c) - n_c / N` is negative only if the class is present, and stays positive for a present class that
    is predicted more often than it occurs.

    Args:
        bias_gradient: `[C]`.

    Returns:
        Class indices in rising order.
    """
    return (bias_gradient < 0).nonzero()[:, 0]


def row_minimum(weight_gradient: Tensor, batch_size: int) -> Tensor:
    """Classes of a batch without repeats: the rows with the lowest minimum (Yin et al. 2021, equation 6).

    Valid for different labels and features that are not negative.

    Args:
        weight_gradient: `[C, D]`.
        batch_size: number of examples, at most C.

    Returns:
        Class indices `[batch_size]` in rising order.

    Raises:
        BadInput: when the batch is larger than the number of classes, so that labels must repeat.
    """
    classes = len(weight_gradient)
    refuse(
        [f"batch_size: expected at most {classes} for labels without repeats, got {batch_size}; use recover_counts"][
            : batch_size > classes
        ]
    )
    return weight_gradient.min(dim=1).values.argsort()[:batch_size].sort().values


def counts_by_subtraction(signal: Tensor, impact: float, batch_size: int, offset: Tensor | None = None) -> Tensor:
    """Counts by taking the most negative class and adding its share back, until the batch is full.

    Every class with a negative signal is taken once; after that the offset is removed and the lowest class taken
    each time (Wainakh et al. 2022, algorithm 1). The share is added at the class that was taken.

    Args:
        signal: one number for each class, negative for present ones, `[C]`.
        impact: what one example adds to its class's signal; negative.
        batch_size: number of examples.
        offset: what the examples of other classes add to each class's signal, `[C]`; None for 0.

    Returns:
        Counts `[C]`, int64.
    """
    left = signal.double().clone()
    counts = torch.zeros(len(left), dtype=torch.long)
    for label in left.argsort().tolist():
        if signal[label] < 0 and int(counts.sum()) < batch_size:
            counts[label] += 1
            left[label] -= impact
    if offset is not None:
        left -= offset.double()
    while int(counts.sum()) < batch_size:
        label = int(left.argmin())
        counts[label] += 1
        left[label] -= impact
    return counts


def llg(weight_gradient: Tensor, batch_size: int) -> Tensor:
    """Counts from row sums with the impact estimated from the update alone (Wainakh et al. 2022, LLG).

    Args:
        weight_gradient: `[C, D]`; the features must not be negative.
        batch_size: number of examples.

    Returns:
        Counts `[C]`.
    """
    sums = weight_gradient.double().sum(dim=1)
    impact = float(sums.clamp(max=0).sum()) * (1 + 1 / len(sums)) / batch_size
    return counts_by_subtraction(sums, impact, batch_size)


def llg_white_box(weight_gradient: Tensor, batch_size: int, features: Tensor, probabilities: Tensor) -> Tensor:
    """Counts from row sums with impact and offset measured on dummy inputs (Wainakh et al. 2022, LLG*).

    With dummies drawn independently of the classes, a private example of class c adds `(p_c - 1) s / N` to its own
    row sum and `p_c s / N` to those of the others, where s is the sum of its features.

    Args:
        weight_gradient: `[C, D]`.
        batch_size: number of examples.
        features: last-layer inputs of dummies, `[M, D]`.
        probabilities: their softmax outputs, `[M, C]`.

    Returns:
        Counts `[C]`.
    """
    sums, total = weight_gradient.double().sum(dim=1), features.double().sum(dim=1, keepdim=True)
    offset = (probabilities.double() * total).mean(dim=0)
    impact = -float(total.mean()) / batch_size
    return counts_by_subtraction(sums, impact, batch_size, offset)


def bias_corrected(bias_gradient: Tensor, batch_size: int) -> Tensor:
    """Counts from the bias gradient with its negative part as the total impact.

    Args:
        bias_gradient: `[C]`.
        batch_size: number of examples.

    Returns:
        Counts `[C]`.
    """
    impact = float(bias_gradient.double().clamp(max=0).sum()) / batch_size
    return counts_by_subtraction(bias_gradient, impact, batch_size)


def counts_from_mean_softmax(bias_gradient: Tensor, mean_softmax: Tensor, batch_size: int) -> Tensor:
    """Counts from `db_c = mean(p_c) - n_c / N`, with the mean softmax measured on dummy inputs (Geng et al. 2021).

    Args:
        bias_gradient: `[C]`.
        mean_softmax: `[C]`.
        batch_size: number of examples N.

    Returns:
        Counts `[C]`.
    """
    return round_counts(batch_size * (mean_softmax.double() - bias_gradient.double()), batch_size)


def ilrg(weight_gradient: Tensor, bias_gradient: Tensor, weight: Tensor, bias: Tensor, batch_size: int) -> Tensor:
    """Counts from one feature estimate for each class, `dW_c / db_c` (Ma et al. 2023).

    Solves `sum_j n_j P_jc - n_c = N db_c` for all c and `sum_j n_j = N` in the least-squares sense, where P_j is
    the softmax at the estimate of class j.

    Args:
        weight_gradient: `[C, D]`.
        bias_gradient: `[C]`; where it is zero, the mean of the other estimates stands in.
        weight: the classifier's weight `[C, D]`.
        bias: the classifier's bias `[C]`.
        batch_size: number of examples N.

    Returns:
        Counts `[C]`.
    """
    db = bias_gradient.double()
    usable = db != 0
    if not bool(usable.any()):
        return round_counts(torch.zeros(len(db)), batch_size)
    estimates = weight_gradient.double() / torch.where(usable, db, 1.0)[:, None]
    estimates[~usable] = estimates[usable].mean(dim=0)
    probabilities = torch.softmax(estimates @ weight.double().T + bias.double(), dim=1)
    system = torch.cat([probabilities.T - torch.eye(len(db), dtype=torch.float64), torch.ones(1, len(db)).double()])
    wanted = batch_size * torch.cat([db, torch.ones(1, dtype=torch.float64)])
    return round_counts(torch.linalg.pinv(system) @ wanted, batch_size)


def counts_along_path(
    weight_gradient: Tensor,
    mean_softmax: tuple[Tensor, Tensor],
    mean_features: tuple[float, float],
    steps: int,
    batch_size: int,
) -> Tensor:
    """Counts from local steps, between which the model's responses are interpolated (Dimitrov et al. 2022).

    Step s = 0, 1, ... of S has mean softmax `p_s` and feature sum `O_s` at a share `s / S` between those before and
    after local training; it gives `n_c = N p_s,c - N g_c / (O_s S)` with g_c the row sum of the summed gradients, and
    the steps are averaged. Valid for features that are not negative.

    Args:
        weight_gradient: of the classifier, summed over the steps, `[C, D]`: minus the delta over the learning rate.
        mean_softmax: `[C]` before and after, of dummy inputs.
        mean_features: mean over dummies of the sum of their features, before and after.
        steps: S.
        batch_size: number of private examples N.

    Returns:
        Counts `[C]`.
    """
    sums = weight_gradient.double().sum(dim=1)
    shares = torch.arange(steps, dtype=torch.float64) / steps
    probabilities = (1 - shares)[:, None] * mean_softmax[0].double() + shares[:, None] * mean_softmax[1].double()
    features = (1 - shares) * mean_features[0] + shares * mean_features[1]
    estimates = batch_size * (probabilities - sums / (features[:, None] * steps))
    return round_counts(estimates.mean(dim=0), batch_size)
