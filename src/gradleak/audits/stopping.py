"""Whether a bound shows that a setting stops a class of attackers, where no attack did."""

import math

from gradleak.audits.ceilings import Ceiling, luck
from gradleak.bounds.photograph_prior import NAME


def bound_chance(ceiling: Ceiling | None, threshold: float, batch_size: int) -> float:
    """How often the best attacker of the class of the second ceiling reaches a threshold.

    The class is that of `auto`: who knows of images no more than the prior of photographs, with edges granted. Its
    ceiling is of a mean, so what counts is the share of images on which a squared error of that mean and of its own
    spread stays below the threshold, on the batch of the highest ceiling.

    Args:
        ceiling: of the setting; None for none.
        threshold: PSNR in dB of one image.
        batch_size: private images in a batch; of more than one the ceiling is of all of them together, and says nothing
            about the one that leaks most.

    Returns:
        A probability; NaN where the bound says nothing: with another prior, without noise, behind defenses that jump
        (what is selected or rounded tells something that no derivative knows), for parts of a spectrum, and where some
        batch has no bound.
    """
    if ceiling is None or batch_size != 1 or ceiling.prior != NAME or not ceiling.smooth:
        return math.nan
    if ceiling.partial or ceiling.failed or math.isnan(ceiling.prior_spread):
        return math.nan
    return luck([(threshold - ceiling.prior_psnr.most, ceiling.prior_spread)])
