"""How good an inverter is on examples that it was not trained on, beside what needs no update."""

import math

import torch
from torch import Tensor

from gradleak.inverters import Inverter, QualityFacts
from gradleak.scoring import peak_signal_noise_ratio, structural_similarity

MOST_EXAMPLES = 200


def quality(inverter: Inverter, features: Tensor, inputs: Tensor, targets: Tensor, mean: Tensor) -> QualityFacts:
    """Measure an inverter.

    Args:
        inverter: as trained so far.
        features: standardized updates `[n, F]`.
        inputs: the inputs behind them `[n, ...]`.
        targets: their classes `[n]`.
        mean: mean of the training inputs, the best answer without any update in the sense of the squared error.

    Returns:
        Means over the examples.
    """
    with torch.no_grad():
        answers, logits = inverter.outputs(features.float())
    others = answers.roll(1, dims=0)  # the answer to another example's update
    low, high = inverter.bounds or (float(inputs.min()), float(inputs.max()))
    span = high - low

    def both(guess: Tensor) -> tuple[float | None, float | None]:
        ssim = structural_similarity(guess, inputs, data_range=span).mean().item()
        psnr = peak_signal_noise_ratio(guess, inputs, data_range=span).mean().item()
        return _number(ssim), _number(psnr)

    ssim, psnr = both(answers)
    mean_ssim, mean_psnr = both(mean.expand_as(inputs))
    shuffled_ssim, shuffled_psnr = both(others)
    return QualityFacts(
        examples=len(inputs),
        ssim=ssim,
        psnr=psnr,
        label_accuracy=(logits.argmax(dim=1) == targets).double().mean().item(),
        mean_ssim=mean_ssim,
        mean_psnr=mean_psnr,
        shuffled_ssim=shuffled_ssim,
        shuffled_psnr=shuffled_psnr,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
