"""A private copy of a model in a chosen mode, safe under function transforms."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]  # the only common base class

from gradleak.seeds import stage_generator

Mode = Literal["eval", "train"]
DropoutChoice = Literal["off", "fixed_mask"]


class FixedMask(nn.Module):
    """Dropout whose mask depends only on a seed and on the shape, so that a client and its simulation agree.

    One mask is drawn per shape of one example and shared by the batch, which keeps the client's update an average
    over examples.
    """

    def __init__(self, probability: float, seed: int, name: str) -> None:
        super().__init__()
        self.probability = probability
        self.seed = seed
        self.name = name

    def forward(self, inputs: Tensor) -> Tensor:
        """Zero the masked entries of each example and scale the rest by `1 / (1 - probability)`."""
        generator = stage_generator(self.seed, f"dropout/{self.name}")
        kept = torch.rand(inputs.shape[1:], generator=generator) >= self.probability
        return inputs * kept.to(inputs.device, inputs.dtype) / (1 - self.probability)


def dropout_layers(model: nn.Module) -> list[str]:
    """Names of the modules that draw dropout masks in training mode."""
    names: list[str] = []
    for name, module in model.named_modules():
        rate = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(rate, float | int) and rate > 0:
            names.append(name or type(module).__name__)
    return names


def stateless_copy(model: nn.Module, *, mode: Mode, dropout: DropoutChoice | None, dropout_seed: int) -> nn.Module:
    """A copy of the model for `functional_call`, which never updates buffers and draws no random numbers.

    Args:
        model: the user's model; left as it is.
        mode: `"eval"` normalizes with running statistics, `"train"` with those of the batch (biased variance,
            as the module itself does), without updating the running ones.
        dropout: `"off"` removes dropout, `"fixed_mask"` draws each layer's mask from `dropout_seed`.
        dropout_seed: seed of the fixed masks.

    Returns:
        The copy; its own parameter values are not meant to be used.
    """
    module = copy.deepcopy(model).train(mode == "train")
    if mode == "train":
        replace_all_batch_norm_modules_(module)
    for name in dropout_layers(module):
        layer = module.get_submodule(name) if name in dict(module.named_modules()) else module
        if isinstance(layer, _DropoutNd):
            new = FixedMask(layer.p, dropout_seed, name) if dropout == "fixed_mask" else nn.Identity()
            if layer is module:
                return new
            module.set_submodule(name, new)
        else:  # attention and recurrent modules hold a rate instead of a layer
            setattr(layer, "dropout", 0.0)  # noqa: B010  # a rate, where the stubs expect a submodule
    return module
