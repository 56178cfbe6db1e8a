"""Updates on which the laws of defenses are tested."""

import torch
from torch import Tensor

from gradleak.seeds import stage_generator


def update(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Tensors of several shapes and sizes, two alike in shape, with exact zeros and entries of very different size."""
    generator = stage_generator(seed, "update")
    found: dict[str, Tensor] = {}
    for name, shape, size in (
        ("conv.weight", (4, 3, 5, 5), 1e-2),
        ("conv.bias", (10,), 3.0),
        ("linear.weight", (10, 20), 0.2),
        ("linear.bias", (10,), 1e-4),
    ):
        normal, spread = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
        found[name] = (size * normal * torch.exp(spread)).to(dtype)
    found["linear.weight"][3] = 0.0
    return found
