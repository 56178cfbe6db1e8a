"""Label recovery: targets derived from the update of the classifier, before any image is searched.

Every rule works on the gradient's sign, so a weight delta and a gradient give the same answer.
"""

from gradleak.attacks.labels.batch_size import BatchSize, NoBatchSize, recover_batch_size
from gradleak.attacks.labels.counts import LabelCounts, NoCounts, recover_counts
from gradleak.attacks.labels.inputs import head_residuals, targets_of
from gradleak.attacks.labels.loss_form import LossForm, find_loss_form
from gradleak.attacks.labels.rules import (
    bias_corrected,
    counts_along_path,
    counts_by_subtraction,
    counts_from_mean_softmax,
    ilrg,
    llg,
    llg_white_box,
    present_by_bias_sign,
    round_counts,
    row_minimum,
)
from gradleak.attacks.labels.single import bias_sign, leading_row, row_sum_sign

__all__ = [
    "BatchSize",
    "LabelCounts",
    "LossForm",
    "NoBatchSize",
    "NoCounts",
    "bias_corrected",
    "bias_sign",
    "counts_along_path",
    "counts_by_subtraction",
    "counts_from_mean_softmax",
    "find_loss_form",
    "head_residuals",
    "ilrg",
    "llg",
    "llg_white_box",
    "leading_row",
    "present_by_bias_sign",
    "recover_batch_size",
    "recover_counts",
    "round_counts",
    "row_minimum",
    "row_sum_sign",
    "targets_of",
]
