"""How close a reconstruction came to the truth: one row for each true example, after pairing.

This is where the truth meets the attacker's result, and the only place apart from the capture that sees both.
"""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gradleak.errors import BadInput
from gradleak.scoring import metrics
from gradleak.scoring.pairing import UNPAIRED, in_true_order, pair
from gradleak.scoring.statistics import quantiles
from gradleak.scoring.texts import TextScores, in_true_order_of_texts, pair_texts, text_scores
from gradleak.tokens import TokenSpace

if TYPE_CHECKING:
    from gradleak.captures import Truth
    from gradleak.reconstructions import Reconstruction

NumericColumn = Literal["psnr", "ssim", "mse", "correlation", "max_abs_error", "psnr_unclamped"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one reconstruction, every column `[N]` in the order of the true examples.

    All but `psnr_unclamped` are taken after clamping to the bounds of the input space. What cannot be scored is
    NaN: an unpaired or non-finite example, PSNR and SSIM in a space without bounds, SSIM of anything but images.

    Attributes:
        psnr: dB, float64; infinite at identity.
        ssim: in [-1, 1], float64.
        mse: squared input units, float64.
        correlation: mean-subtracted Pearson correlation in [-1, 1], float64; NaN for a constant example.
        max_abs_error: input units, float64; below 1/255 on images is exact recovery.
        psnr_unclamped: dB, float64, from the raw values of the reconstruction.
        target_correct: whether the target of the paired example is the true one; None where none was guessed.
        paired_with: index of the reconstructed example, int64; -1 if unpaired.
        targets_given: whether the threat model handed the targets out; `target_correct` is None throughout then,
            because an accuracy of what was given says nothing.
        text: the scores of texts, whose columns above are NaN; None for other inputs.
    """

    psnr: Tensor
    ssim: Tensor
    mse: Tensor
    correlation: Tensor
    max_abs_error: Tensor
    psnr_unclamped: Tensor
    target_correct: tuple[bool | None, ...]
    paired_with: Tensor
    targets_given: bool
    text: TextScores | None = None

    def __len__(self) -> int:
        """The number of true examples."""
        return len(self.psnr)

    def to_dict(self) -> dict[str, list[float] | list[int] | list[bool | None]]:
        """Column name to list of Python values in true order; infinities and NaN stay floats."""
        own = [field.name for field in fields(self) if field.name not in {"targets_given", "text"}]
        columns = {name: getattr(self, name) for name in own}
        if self.text is not None:
            columns |= {field.name: getattr(self.text, field.name) for field in fields(self.text)}
        return {
            name: column.tolist() if isinstance(column, Tensor) else list(column) for name, column in columns.items()
        }

    @property
    def unscored(self) -> int:
        """How many true examples have no comparison at all, counted by a NaN in `mse`, or in `token_accuracy`."""
        return int((self.mse if self.text is None else self.text.token_accuracy).isnan().sum())

    def median(self, column: NumericColumn) -> float:
        """Median of one column without its NaN values; NaN if nothing is left."""
        values: Tensor = getattr(self, column)
        return quantiles(values, (0.5,)).values[0]

    def success_rate(self, threshold_db: float) -> float:
        """Share in [0, 1] of all true examples whose PSNR is `threshold_db` dB or more.

        Rows with a NaN count as not reconstructed, so that an attack which returns one example out of eight is not
        a full success.

        Returns:
            The share; NaN if no row has a PSNR, since that is no evidence either way.
        """
        if bool(self.psnr.isnan().all()):
            return math.nan
        return float((self.psnr >= threshold_db).double().mean())


def score(reconstruction: "Reconstruction", truth: "Truth") -> Scores:
    """Pair the reconstructed examples `[M, ...]` with the true ones `[N, ...]` and score each true one.

    Both are in the units of the input space. Pairing is by squared distance of the clamped inputs.

    Returns:
        One row for each true example.

    Raises:
        BadInput: when the examples of the two differ in shape, or there is not one target for each reconstructed one.
    """
    if isinstance(truth.space, TokenSpace):
        return _of_texts(reconstruction.inputs, truth, truth.space, reconstruction)
    _check_targets(reconstruction)
    clamped = clamp(reconstruction.inputs, truth.space.bounds)
    pairing = pair(clamped, truth.inputs)
    ordered = in_true_order(clamped, pairing)
    correct: tuple[bool | None, ...] = (None,) * len(truth.inputs)
    if not reconstruction.targets_given:
        # A non-finite example is paired arbitrarily, so a target that happens to agree there is no finding.
        found = ordered.flatten(1).isfinite().all(dim=1) & _same_targets(reconstruction, truth, pairing)
        correct = tuple(found.tolist())
    return _rows(
        ordered,
        truth,
        raw=in_true_order(reconstruction.unclamped, pairing),
        pairing=pairing,
        target_correct=correct,
        targets_given=reconstruction.targets_given,
    )


def score_inputs(inputs: Tensor, truth: "Truth") -> Scores:
    """Score guessed inputs `[M, ...]` that come without targets, by the same pairing and rules as a reconstruction.

    Returns:
        One row for each true example, with None for `target_correct`.

    Raises:
        BadInput: when the examples differ in shape from the true ones.
    """
    if isinstance(truth.space, TokenSpace):
        return _of_texts(inputs, truth, truth.space)
    clamped = clamp(inputs, truth.space.bounds)
    pairing = pair(clamped, truth.inputs)
    return _rows(
        in_true_order(clamped, pairing),
        truth,
        raw=in_true_order(inputs, pairing),
        pairing=pairing,
        target_correct=(None,) * len(truth.inputs),
        targets_given=False,
    )


def _of_texts(
    inputs: Tensor, truth: "Truth", space: TokenSpace, reconstruction: "Reconstruction | None" = None
) -> Scores:
    """Scores of token ids `[M, T]`; labels count for a reconstruction whose texts have one each."""
    pairing = pair_texts(inputs, truth.inputs, space)
    correct: tuple[bool | None, ...] = (None,) * len(truth.inputs)
    classified = reconstruction is not None and not reconstruction.targets_given and reconstruction.targets.dim() == 1
    if reconstruction is not None and classified:
        _check_targets(reconstruction)
        correct = tuple(_same_targets(reconstruction, truth, pairing).tolist())
    none = torch.full((len(truth.inputs),), math.nan, dtype=torch.float64)
    ordered = in_true_order_of_texts(inputs, pairing)
    return Scores(
        psnr=none,
        ssim=none,
        mse=none,
        correlation=none,
        max_abs_error=none,
        psnr_unclamped=none,
        target_correct=correct,
        paired_with=pairing,
        targets_given=reconstruction is not None and reconstruction.targets_given,
        text=text_scores(ordered, truth.inputs, space),
    )


def clamp(inputs: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """`inputs` `[N, ...]` in float64 with finite entries clamped to `bounds` and all others NaN."""
    inputs = inputs.detach().to("cpu", torch.float64)
    # Clamping an infinity would turn a diverged candidate into a white pixel that has a score.
    inputs = inputs.masked_fill(~inputs.isfinite(), math.nan)
    return inputs if bounds is None else inputs.clamp(*bounds)


def _rows(
    ordered: Tensor,
    truth: "Truth",
    *,
    raw: Tensor,
    pairing: Tensor,
    target_correct: tuple[bool | None, ...],
    targets_given: bool,
) -> Scores:
    """Scores of examples that are in true order already, clamped and raw."""
    bounds = truth.space.bounds
    none = torch.full((len(ordered),), math.nan, dtype=torch.float64)
    psnr = ssim = psnr_unclamped = none
    if bounds is not None:
        data_range = bounds[1] - bounds[0]
        psnr = metrics.peak_signal_noise_ratio(ordered, truth.inputs, data_range=data_range)
        ssim = metrics.structural_similarity(ordered, truth.inputs, data_range=data_range)
        psnr_unclamped = metrics.peak_signal_noise_ratio(raw, truth.inputs, data_range=data_range)
    return Scores(
        psnr=psnr,
        ssim=ssim,
        mse=metrics.mean_squared_error(ordered, truth.inputs),
        correlation=metrics.correlation(ordered, truth.inputs),
        max_abs_error=metrics.max_abs_error(ordered, truth.inputs),
        psnr_unclamped=psnr_unclamped,
        target_correct=target_correct,
        paired_with=pairing,
        targets_given=targets_given,
    )


def _hard(targets: Tensor) -> Tensor:
    """Targets as class indices `[N]`; of probabilities `[N, C]`, the most probable class."""
    targets = targets.detach().cpu()
    return targets.argmax(dim=1) if targets.ndim == 2 else targets


def _same_targets(reconstruction: "Reconstruction", truth: "Truth", pairing: Tensor) -> Tensor:
    """Whether the partner of each true example has its target, as bool `[N]`; False if unpaired."""
    same = torch.zeros(len(pairing), dtype=torch.bool)
    paired = pairing != UNPAIRED
    same[paired] = _hard(reconstruction.targets)[pairing[paired]] == _hard(truth.targets)[paired]
    return same


def _check_targets(reconstruction: "Reconstruction") -> None:
    expected = [len(reconstruction.inputs)]
    if not reconstruction.targets_given and list(_hard(reconstruction.targets).shape) != expected:
        raise BadInput(
            [
                f"targets: expected shape {expected}, got {list(reconstruction.targets.shape)}; "
                "give one target for each reconstructed example"
            ]
        )
