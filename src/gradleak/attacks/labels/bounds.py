"""How many examples of each class a gradient proves, whatever the inputs were.

For plain labels the gradient of the last layer is `db_c = mean_n w_n (p_nc - [y_n = c])` and
`dW_c = mean_n w_n (p_nc - [y_n = c]) o_n`. An example of another class adds nothing negative to `db_c`, and to `dW_c`
nothing negative either where features o are not. So

    n_c >= -N db_c / w_c                and                n_c >= 1 if any entry of dW_c is negative.

Confident examples of their own class leave next to nothing in the gradient, and no rule can count them.
"""

import torch
from torch import Tensor

from gradleak.attacks.labels.evidence import HeadGradient
from gradleak.attacks.labels.loss_form import LossForm

# Entries count as negative beyond so many roundings of the largest one.
_ROUNDINGS = 4.0
_ONE_HOT = 1e-5


def fewest_of_each(
    head: HeadGradient, form: LossForm, batch_size: int, *, rounding: float, nonnegative_features: bool
) -> Tensor:
    """Counts that the private batch has at least.

    Args:
        head: the last layer and its gradient, of a loss averaged over the batch, without noise.
        form: of the loss; with smoothed targets nothing is proved.
        batch_size: number of examples N.
        rounding: relative rounding of the gradient's entries.
        nonnegative_features: whether what enters the last layer is never negative, as after ReLU or sigmoid.

    Returns:
        `[C]`, int64; the sum is at most N.
    """
    classes = len(head.weight)
    fewest = torch.zeros(classes, dtype=torch.float64)
    if float((form.targets - torch.eye(classes, dtype=torch.float64)).abs().max()) > _ONE_HOT:
        return fewest.long()
    if head.bias_gradient is not None:
        slack = _ROUNDINGS * rounding * float(head.bias_gradient.abs().max())
        excess = -(head.bias_gradient + slack) * batch_size / form.weights
        fewest = torch.where(excess > 0, (excess - 1e-9).ceil().clamp_min(1), 0.0)
    if nonnegative_features:
        slack = _ROUNDINGS * rounding * float(head.weight_gradient.abs().max())
        present = head.weight_gradient.min(dim=1).values < -slack
        fewest = torch.maximum(fewest, present.double())
    if float(fewest.sum()) > batch_size:  # the client's targets are not plain labels
        return torch.zeros_like(fewest).long()
    return fewest.long()
