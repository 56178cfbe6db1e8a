"""A private copy of a model in a chosen mode, safe under function transforms."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the only common base class
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]  # the only common base class

from gradleak.bottleneck import LatentNoise
from gradleak.seeds import stage_generator

Mode = Literal["eval", "train"]
DropoutChoice = Literal["off", "fixed_mask", "random"]

MASK = "mask"
"""Name of the buffer through which a dropout layer of a copy receives its masks."""

NOISE = "noise"
"""Name of the buffer through which a bottleneck of a copy receives the noise of its latent variable."""


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
        # Drawn outside of torch, which draws nothing while restarts pass together under `vmap`.
        draws = np.random.default_rng(generator.initial_seed()).random(inputs.shape[1:])
        kept = torch.from_numpy(draws >= self.probability)
        return inputs * kept.to(inputs.device, inputs.dtype) / (1 - self.probability)


class Given(nn.Module, ABC):
    """A layer whose random draws are an argument: a buffer that `functional_call` replaces, neutral until then.

    Attributes:
        buffer: its name.
    """

    buffer: str

    @abstractmethod
    def draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Private draws for a batch whose entering values have this shape, on the CPU."""


class GivenNoise(Given):
    """The noise of a variational bottleneck, 0 until it is given."""

    buffer = NOISE
    noise: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(NOISE, torch.zeros(()), persistent=False)

    def forward(self, mean: Tensor) -> Tensor:
        """The noise, whatever the mean."""
        return self.noise.to(mean.dtype).expand_as(mean)

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """N(0, I)."""
        return torch.randn(shape, generator=generator)


class GivenMask(Given):
    """Dropout with given masks, 1 (no dropout) until then.

    A mask has one entry for each entry of what enters, 0 where it is dropped and `1 / (1 - probability)` elsewhere.
    """

    buffer = MASK
    mask: Tensor

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.register_buffer(MASK, torch.ones(()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The inputs times their masks."""
        return inputs * self.mask.to(inputs.dtype)

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Every entry is dropped with the layer's probability."""
        return (torch.rand(shape, generator=generator) >= self.probability) / (1 - self.probability)


def recurrent(model: nn.Module) -> bool:
    """Whether a model has one of PyTorch's recurrent layers, which do not pass under `vmap`."""
    return any(isinstance(layer, nn.RNNBase) for layer in model.modules())


def dropout_layers(model: nn.Module) -> list[str]:
    """Names of the modules that draw dropout masks in training mode."""
    names: list[str] = []
    for name, module in model.named_modules():
        rate = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(rate, float | int) and rate > 0:
            names.append(name or type(module).__name__)
    return names


def hidden_dropout_layers(model: nn.Module) -> list[str]:
    """Those of them that draw their masks internally, as attention and recurrent modules do."""
    modules = dict(model.named_modules())
    return [
        name for name in dropout_layers(model) if isinstance(getattr(modules.get(name, model), "dropout", None), float)
    ]


@dataclass(frozen=True, eq=False)
class StatelessCopy:
    """A copy of a model for `functional_call`, which never updates buffers and draws no random numbers.

    Attributes:
        module: the copy; its own parameter values are not meant to be used.
        entered: what entered each BatchNorm layer with running statistics in the last forward pass, by layer name; the
            passes of a layer that is used several times in order. Only filled in training mode.
    """

    module: nn.Module
    entered: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])

    def running_statistics(self, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The buffers after the last forward pass, as the layers themselves would have updated them.

        Args:
            buffers: their values before it, by name.

        Returns:
            Running means and (unbiased) variances, differentiable, and the counters of BatchNorm layers, by name.
        """
        updated: dict[str, Tensor] = {}
        for name, passes in self.entered.items():
            prefix = f"{name}." if name else ""
            layer = self.module.get_submodule(name)
            momentum = getattr(layer, "momentum", None)
            mean, variance = buffers[f"{prefix}running_mean"], buffers[f"{prefix}running_var"]
            counter = buffers.get(f"{prefix}num_batches_tracked")
            for entering in passes:
                channels = entering.transpose(0, 1).flatten(1).to(mean.dtype)
                counter = None if counter is None else counter + 1
                # Without a momentum the layer keeps the plain mean over all batches.
                share = momentum if momentum is not None else 1 / (1 if counter is None else counter.to(mean.dtype))
                mean = (1 - share) * mean + share * channels.mean(dim=1)
                variance = (1 - share) * variance + share * channels.var(dim=1, correction=1)
            updated[f"{prefix}running_mean"], updated[f"{prefix}running_var"] = mean, variance
            if counter is not None:
                updated[f"{prefix}num_batches_tracked"] = counter
        return updated


def stateless_copy(
    model: nn.Module, *, mode: Mode, dropout: DropoutChoice | None, dropout_seed: int = 0
) -> StatelessCopy:
    """Copy a model for `functional_call`.

    Args:
        model: the user's model; left as it is.
        mode: `"eval"` normalizes with running statistics, `"train"` with those of the batch (biased variance,
            as the module itself does), without updating the running ones.
        dropout: `"off"` removes dropout, `"fixed_mask"` draws each layer's mask from `dropout_seed`, `"random"` leaves
            the masks to the caller, see `GivenMask`. The noise of bottlenecks is the caller's in any case.
        dropout_seed: seed of the fixed masks.

    Returns:
        The copy.
    """
    copied = StatelessCopy(copy.deepcopy(model).train(mode == "train"))
    if mode == "train":
        for name, layer in copied.module.named_modules():
            if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.running_mean is not None:
                layer.register_forward_pre_hook(_recorder(copied.entered, name))
                # The layer must not write into the buffers that it is given.
                layer.track_running_stats = False
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    module = copied.module
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LatentNoise):
            module.set_submodule(name, GivenNoise())
    for name in dropout_layers(module):
        layer = module.get_submodule(name) if name in dict(module.named_modules()) else module
        if isinstance(layer, _DropoutNd):
            new = _dropout(layer.p, dropout, dropout_seed, name)
            if layer is module:
                return StatelessCopy(new)
            module.set_submodule(name, new)
        else:  # attention and recurrent modules hold a rate instead of a layer
            setattr(layer, "dropout", 0.0)  # noqa: B010  # a rate, where the stubs expect a submodule
    return copied


def _dropout(probability: float, choice: DropoutChoice | None, seed: int, name: str) -> nn.Module:
    if choice == "fixed_mask":
        return FixedMask(probability, seed, name)
    return GivenMask(probability) if choice == "random" else nn.Identity()


def _recorder(entered: dict[str, list[Tensor]], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _layer, inputs: entered.setdefault(name, []).append(inputs[0])
