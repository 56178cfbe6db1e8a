"""InstaHide's encodings back to the images in them, once they and the shares are known.

Taking absolute values undoes the signs (Carlini et al. 2020): `|x~| = |sum_n c_n x_n|`, of what the model receives.
Where pixels are not negative there, nothing is lost and the images follow by least squares; where they are centered,
the signs of the mixtures are unknowns, and are sought in turns with the images.
"""

import torch
from torch import Tensor

from gradleak.defenses.insta_hide import received, unreceived
from gradleak.defenses.mixup import mixed
from gradleak.errors import refuse
from gradleak.seeds import stage_generator
from gradleak.tasks import ImageSpace

_TURNS = 100
_STARTS = 8
# Singular values of the shares below which errors would be all that is seen.
_WEAKEST = 0.02


def decode_encodings(encodings: Tensor, coefficients: Tensor, space: ImageSpace, *, seed: int = 0) -> Tensor:
    """Images from encodings, gathered over one or several updates.

    Args:
        encodings: variables of the space, `[M, C, H, W]`.
        coefficients: share of every image in every encoding, `[M, N]`.
        space: of the images.
        seed: of the starts.

    Returns:
        The images within their bounds, `[N, C, H, W]`; for centered pixels each is determined up to its negative, and
        only if there are more encodings than images.

    Raises:
        BadInput: when the two do not belong together.
    """
    refuse(
        [
            f"coefficients: expected shape [{len(encodings)}, N], got {list(coefficients.shape)}; "
            "give one row for each encoding"
        ][: coefficients.ndim != 2 or len(coefficients) != len(encodings)]
    )
    sizes = received(encodings.double(), space).abs()
    shares = coefficients.to(sizes)
    # Rows of nearly equal shares leave only their mixture, to be shown in place of each image.
    left, strengths, right = torch.linalg.svd(shares, full_matrices=False)
    weights = torch.where(strengths > _WEAKEST, 1 / strengths.clamp(min=_WEAKEST), 1.0)
    inverse = right.T @ (weights[:, None] * left.T)
    low, high = (float(received(torch.full((1, *space.shape), bound).double(), space).mean()) for bound in space.bounds)
    images = mixed(inverse, sizes)
    if low < 0:
        flat = sizes.flatten(1)
        generator = stage_generator(seed, "decoding")
        best = torch.full(flat.shape[1:], torch.inf, dtype=flat.dtype)
        found = torch.zeros((shares.shape[1], flat.shape[1]), dtype=flat.dtype)
        for _ in range(_STARTS):
            candidate, misfit = _in_turns(flat, shares, inverse, low, high, generator)
            found = torch.where(misfit < best, candidate, found)
            best = torch.minimum(best, misfit)
        images = found.view(-1, *sizes.shape[1:])
    return unreceived(images, space).clamp(*space.bounds).to(encodings)


def _in_turns(
    sizes: Tensor, shares: Tensor, inverse: Tensor, low: float, high: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Signs of the mixtures and images in turns; returns images `[N, D]` and the misfit of each pixel `[D]`."""
    drawn = torch.rand((shares.shape[1], sizes.shape[1]), generator=generator, dtype=sizes.dtype)
    images = low + (high - low) * drawn
    for _ in range(_TURNS):
        images = (inverse @ (torch.sign(shares @ images) * sizes)).clamp(low, high)
    return images, ((shares @ images).abs() - sizes).square().sum(dim=0)
