"""The loss that is trained."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradleak.bottleneck import auxiliary_loss

Autocast = Literal["bf16"]
"""Types of mixed precision."""


def training_loss(
    model: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, autocast: Autocast | None = None
) -> Tensor:
    """The mean loss of one forward pass, with what a variational bottleneck adds.

    Args:
        model: in training mode.
        inputs: as it receives them, `[N, ...]`.
        targets: class indices `[N]` or probabilities `[N, C]`.
        autocast: type of mixed precision of the forward pass; the loss itself is computed in full precision.

    Returns:
        A scalar.
    """
    if autocast is None:
        loss = functional.cross_entropy(model(inputs), targets)
    else:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = model(inputs)
        loss = functional.cross_entropy(outputs.to(inputs.dtype), targets)
    added = auxiliary_loss(model) if isinstance(model, nn.Module) else None
    return loss if added is None else loss + added
