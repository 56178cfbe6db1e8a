"""The loss that is trained."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradleak.bottleneck import auxiliary_loss

Autocast = Literal["bf16"]
"""Types of mixed precision."""


def logits(model: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    """What a model gives for inputs `[N, ...]`, which may be packed up as Hugging Face does it."""
    found = model(inputs)
    return found if isinstance(found, Tensor) else found.logits


def by_target(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets with one row for each target.

    Args:
        outputs: `[N, C]`, or `[N, T, C]` where each token has a target.
        targets: of the same examples; tokens without one have -100, which PyTorch's cross-entropy leaves out.

    Returns:
        Outputs `[M, C]`, and targets `[M]` or probabilities `[M, C]`.
    """
    return (outputs.flatten(0, 1), targets.flatten()) if outputs.dim() == 3 else (outputs, targets)


def training_loss(
    model: Callable[[Tensor], Any], inputs: Tensor, targets: Tensor, autocast: Autocast | None = None
) -> Tensor:
    """The mean loss of one forward pass, with what a variational bottleneck adds.

    Args:
        model: in training mode.
        inputs: as it receives them, `[N, ...]`.
        targets: class indices `[N]` or probabilities `[N, C]`; ids `[N, T]` of tokens.
        autocast: type of mixed precision of the forward pass; the loss itself is computed in full precision.

    Returns:
        A scalar.
    """
    if autocast is None:
        loss = functional.cross_entropy(*by_target(logits(model, inputs), targets))
    else:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = logits(model, inputs)
        full = inputs.dtype if inputs.is_floating_point() else torch.float32
        loss = functional.cross_entropy(*by_target(outputs.to(full), targets))
    added = auxiliary_loss(model) if isinstance(model, nn.Module) else None
    return loss if added is None else loss + added
