"""How steeply each feature that enters a layer depends on the input: row norms of a Jacobian, for a whole batch.

One backward pass for each feature cannot be avoided, so what counts is what a pass costs. Examples do not meet in
evaluation mode, so a pass serves a whole batch; several features share one, each with a copy of the batch of its own;
and it ends at the first convolution, whose gradients by the image need not be put in order to be measured.
With the LeNet of the package, 32 images of 32 x 32 and one thread: 0.7 seconds; by `is_grads_batched` 1.6.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradleak.bottleneck import LatentNoise
from gradleak.defenses.convolution_adjoint import ConvolutionAdjoint, convolution_adjoint
from gradleak.defenses.protocol import PrivateStep
from gradleak.seeds import stage_generator

# Entries of all copies of a batch: their activations are held at once, and more at once are no faster.
_AT_ONCE = 2**20

# Largest error of a gradient that is rounding, in units of its largest entry and of the precision.
_ROUNDING = 1e3


@dataclass(eq=False)
class _Seen:
    """What the hooks of one forward pass saw.

    Attributes:
        entered: inputs of the layer, one for each call.
        first: the convolution that was called first, its weight, input and output; None without convolutions.
    """

    entered: list[Tensor] = field(default_factory=list[Tensor])
    first: tuple[nn.Conv2d, Tensor, Tensor, Tensor] | None = None

    def features(self, count: int) -> Tensor:
        """Of every example and position, `[N, P, D]`."""
        return torch.cat([values.reshape(count, -1, values.shape[-1]) for values in self.entered], dim=1)


class _NoNoise(nn.Module):
    """The mean of a bottleneck's latent noise, in which all copies of an example agree."""

    def forward(self, mean: Tensor) -> Tensor:
        return torch.zeros_like(mean)


class _Watched:
    """A copy of a model in evaluation mode that tells what entered a layer and its first convolution."""

    def __init__(self, step: PrivateStep, layer: str) -> None:
        self.space = step.task.space
        state = {**step.state.parameters, **step.state.constants}
        self.state = {name: _channels_last(value) for name, value in state.items()}
        self.module = copy.deepcopy(step.task.model).eval().requires_grad_(False)
        self.seen = _Seen()
        for name, part in list(self.module.named_modules()):
            if isinstance(part, LatentNoise):
                self.module.set_submodule(name, _NoNoise())
            elif type(part) is nn.Conv2d:
                part.register_forward_hook(self._convolved)
        self.module.get_submodule(layer).register_forward_pre_hook(self._enters)

    def __call__(self, variable: Tensor) -> _Seen:
        self.seen = _Seen()
        self.space.forward(self.module, self.state, variable)
        return self.seen

    def _convolved(self, layer: nn.Conv2d, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self.seen.first is None:
            self.seen.first = (layer, layer.weight.detach(), inputs[0], output)

    def _enters(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.seen.entered.append(inputs[0])


def feature_slopes(step: PrivateStep, layer: str) -> tuple[Tensor, Tensor]:
    """Size and slope of every feature that enters a layer, in evaluation mode; latent noise is at its mean.

    Args:
        step: of the client.
        layer: name of the layer.

    Returns:
        The features r `[N, P, D]` of N examples at P positions, and `||dr / dx||_2` of the same shape, x being what
        the model receives of an example.
    """
    watched, variable = _Watched(step, layer), step.variable.detach()
    with torch.enable_grad():
        adjoint, features = _first_look(watched, variable.clone().requires_grad_())
        count, total = len(features), features[0].numel()
        copies = min(total, max(1, _AT_ONCE // variable.numel()))
        many = _channels_last(variable.repeat(copies, *[1] * (variable.dim() - 1))).requires_grad_()
        seen = watched(many)
        values = seen.features(len(many)).view(copies, count, total)
        base = many
        if adjoint is not None and seen.first is not None:
            base = seen.first[3]
        sizes: list[Tensor] = []
        for some in torch.arange(total, device=many.device).split(copies):
            chosen = torch.zeros_like(values)
            chosen[torch.arange(len(some)), :, some] = 1
            (slopes,) = torch.autograd.grad(values, base, chosen, retain_graph=True, materialize_grads=True)
            slopes = slopes[: len(some) * count]
            blocks = slopes if adjoint is None else adjoint.blocks(slopes)
            sizes.append(blocks.flatten(1).norm(dim=1).view(len(some), count))
    return features, torch.cat(sizes).T.reshape(features.shape)


def _first_look(watched: _Watched, variable: Tensor) -> tuple[ConvolutionAdjoint | None, Tensor]:
    """The adjoint of the convolution through which all of the input passes, if there is one; and the features.

    Whether there is one is not read from the model but tried: gradients by the input, of a random combination of the
    features, must be those that the adjoint makes of the gradients by the convolution's output.

    Returns:
        The adjoint, or None; and the features `[N, P, D]`.
    """
    seen = watched(variable)
    features = seen.features(len(variable))
    if seen.first is None or not features.requires_grad:
        return None, features.detach()
    layer, weight, entered, output = seen.first
    if entered.shape != variable.shape or not output.requires_grad:
        return None, features.detach()
    (scale,) = torch.autograd.grad(entered.sum(), variable, retain_graph=True)  # of the normalization
    adjoint = convolution_adjoint(layer, weight * scale[0, :, :1, :1], *variable.shape[-2:])
    if adjoint is None:
        return None, features.detach()
    mixed = torch.randn(features.shape, generator=stage_generator(0, "probe"), dtype=features.dtype)
    true, at_output = torch.autograd.grad(
        features, [variable, output], mixed.to(features.device), materialize_grads=True
    )
    error = (adjoint.image(at_output, *variable.shape[-2:]) - true).abs().max()
    exact = bool(error <= _ROUNDING * torch.finfo(true.dtype).eps * true.abs().max())
    return adjoint if exact else None, features.detach()


def _channels_last(tensor: Tensor) -> Tensor:
    """In the order in which convolutions are fastest on a processor, if it has rows and columns."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
