"""Counts at trained networks, whose predictions depend on the input, so that dummies say little about private inputs.

Two estimates of the counts are blended. One takes the mean softmax from dummies, as for untrained networks. The other
takes the mass `N max(-db_c, 0)` that examples of class c are short of, and gives every class an equal share of the
rest: those that the network is confident about, which the gradient does not show.
"""

import math

import torch
from torch import Tensor

# Standard deviation of a class's mean softmax between dummies and private inputs, at least.
_MISMATCH = 0.03
# At U(-0.5, 0.5) initialization it is up to 0.03, at a barely trained LeNet 0.08, at a trained ResNet 0.2.
_LEARNED = 0.05


def is_trained(logits: Tensor) -> bool:
    """Whether predictions depend on the input: the mutual information of input and class, against its maximum `log C`.

    Args:
        logits: of dummies, `[M, C]`.

    Returns:
        True above a share of 0.05.
    """
    probabilities = torch.softmax(logits.double(), dim=1)
    mean = probabilities.mean(dim=0)
    information = torch.special.entr(mean).sum() - torch.special.entr(probabilities).sum(dim=1).mean()
    return float(information) > _LEARNED * math.log(logits.shape[1])


def blended_counts(from_dummies: Tensor, missing: Tensor, batch_size: int) -> tuple[Tensor, float]:
    """Weigh the estimate from dummies against equal shares, each by the inverse of its variance.

    How far the dummies are off is not known; how far the two estimates are apart tells it (James and Stein 1961).

    Args:
        from_dummies: counts from the dummies' mean softmax, real numbers `[C]`.
        missing: `N max(-db_c, 0)`, `[C]`.
        batch_size: number of examples N.

    Returns:
        The blend, `[C]`, and the weight of the estimate from dummies, in [0, 1].
    """
    classes = len(missing)
    rest = max(batch_size - float(missing.sum()), 0.0)
    equal_shares = missing + rest / classes
    variance = rest * (classes - 1) / classes**2
    apart = float((from_dummies - equal_shares).square().mean())
    of_dummies = max(apart - variance, (batch_size * _MISMATCH) ** 2)
    weight = variance / (variance + of_dummies)
    return weight * from_dummies + (1 - weight) * equal_shares, weight
