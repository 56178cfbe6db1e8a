"""Images in weighted frequencies: coordinates in which natural images have about one size everywhere.

An optimizer that knows nothing begins with the same step in every unknown. In pixels that is white noise; with
frequency f scaled by `1 / (1 + f)^a` it is what natural images look like, whose spectra fall as a power of the
frequency (Field 1987). The family of images is the same; only the way through it changes.
"""

import math

import torch
from torch import Tensor

from gradleak.attacks.layout import Layout
from gradleak.optim.stages import Coordinates


def cosine_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal discrete cosine transform (type II), one frequency a row `[size, size]`."""
    frequency = torch.arange(size, dtype=torch.float64, device=device)
    rows = torch.cos(math.pi * (frequency + 0.5) * frequency[:, None] / size) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.to(dtype)


def weighted_frequencies(layout: Layout, exponent: float) -> tuple[Coordinates, Coordinates]:
    """The two directions between weighted frequencies and pixels; target logits pass through.

    Args:
        layout: of images `[N, channels, H, W]`.
        exponent: a in `1 / (1 + f)^a`, with f the length of the frequency vector in half periods per image.

    Returns:
        `expand` from frequencies to pixels and `restrict` back, both on flat vectors `[D]`.
    """
    height, width = layout.variable_shape[2:]
    down = cosine_matrix(height, layout.dtype, layout.device)
    across = cosine_matrix(width, layout.dtype, layout.device)
    rows = torch.arange(height, dtype=layout.dtype, device=layout.device)
    columns = torch.arange(width, dtype=layout.dtype, device=layout.device)
    sizes = (1 + torch.hypot(rows[:, None], columns)) ** -exponent

    def expand(candidate: Tensor) -> Tensor:
        frequencies, logits = layout.split(candidate)
        return layout.pack(down.T @ (frequencies * sizes) @ across, logits)

    def restrict(candidate: Tensor) -> Tensor:
        images, logits = layout.split(candidate)
        return layout.pack((down @ images @ across.T) / sizes, logits)

    return expand, restrict
