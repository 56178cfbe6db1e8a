"""How exact each row of a shared gradient is: rounding, and noise that is known."""

import torch
from torch import Tensor

from gradleak.attacks.defended.likelihood import known_noise
from gradleak.clients.settings import StepSettings
from gradleak.threat import Observation

# Errors of sums of float32 products, in units of the rounding of one entry (measured: 0.7 to 1.7 for 8 to 500 tokens).
_SUMMED = 3.0
# Values that were rounded once, to a coarse type, are off by less than half a spacing.
_ROUNDED_ONCE = 0.5
# Values that 8 bits tell apart.
_MOST_LEVELS = 256
_COARSE = (torch.bfloat16, torch.float16)


def row_noise(matrix: Tensor, weight: Tensor, observation: Observation) -> Tensor:
    """Standard deviation of the errors in each row of a gradient, as far as they are known.

    Args:
        matrix: `[m, n]`, one row for each output of a linear module.
        weight: of the module before the step, `[m, n]`.
        observation: what it is part of; its known defenses tell the noise, and its values their own precision.

    Returns:
        `[m]`, float64, above 0 where a row is not zero.
    """
    rms = matrix.double().square().mean(dim=1).sqrt()
    rounding, smallest = _rounding(matrix)
    client = observation.client
    if isinstance(client, StepSettings) and client.autocast is not None:
        coarse = torch.bfloat16 if client.autocast == "bf16" else torch.float16
        rounding = max(rounding, _ROUNDED_ONCE * torch.finfo(coarse).eps)
    rounding = max(rounding, observation.update.coarseness)
    smallest = max(smallest, _grid_error(matrix))
    lost = torch.zeros_like(rms)
    if observation.update.kind == "delta":
        # A difference of weights keeps only what the weights' own digits leave of it.
        lost = torch.finfo(weight.dtype).eps * weight.double().square().mean(dim=1).sqrt()
    return ((rounding * rms).square() + lost.square() + smallest**2 + added_noise(observation) ** 2).sqrt()


def added_noise(observation: Observation) -> float:
    """Standard deviation of the noise that a known client and known defenses add to an entry; 0 for none."""
    return known_noise(observation).std


def _grid_error(matrix: Tensor) -> float:
    """Standard deviation of rounding to few equally spaced values, as 8 bits have; 0 where there are many."""
    levels = matrix.unique()
    if not 1 < len(levels) <= _MOST_LEVELS or 4 * len(levels) > matrix.numel():
        return 0.0
    return float(levels.double().diff().min()) / 12**0.5


def _rounding(matrix: Tensor) -> tuple[float, float]:
    """Relative error of the entries, and what underflow adds: by the coarsest type that holds every value."""
    for dtype in _COARSE:
        if matrix.dtype == dtype or bool((matrix.to(dtype).to(matrix.dtype) == matrix).all()):
            info = torch.finfo(dtype)
            # Below the smallest normal number the spacing is constant.
            return _ROUNDED_ONCE * info.eps, _ROUNDED_ONCE * info.eps * info.tiny
    return _SUMMED * torch.finfo(matrix.dtype).eps, 0.0
