"""The input of a convolution under BatchNorm in training mode, of one example, from its weight gradient.

BatchNorm normalizes with the statistics of what it receives, z, so that the cotangent g at its output comes back as

    D = factor / deviation (g - mean(g) - zhat mean(g zhat)),    zhat = (z - mean(z)) / deviation,

channel by channel. Both means are known: they are the gradients of summand and factor over the number of positions.
But zhat and the deviation depend on the input x that is sought, so that the weight gradient `D(x) * x` is not linear in
it. Gauss-Newton solves it from a crude start. Nothing changes when x is multiplied with a number, except through
BatchNorm's epsilon: that number must come from elsewhere.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.attacks.relu.stack import transposed
from gradleak.attacks.residual.graph import Shortcut
from gradleak.attacks.residual.network import Convolution


@dataclass(frozen=True, eq=False)
class KnownShortcut:
    """Where a block's output is positive, it tells what the shortcut added.

    Attributes:
        run: the shortcut, an affine map of `[1, I, H, W]`.
        made: what it made, `[1, C, h, w]`, right where `active`.
        active: 0 or 1.
        constant: what it makes of zeros.
    """

    run: Shortcut
    made: Tensor
    active: Tensor
    constant: Tensor

    @staticmethod
    def of(run: Shortcut | None, made: Tensor, active: Tensor, shape: tuple[int, ...]) -> "KnownShortcut | None":
        """Of a block's shortcut, if it has one: `made` and `active` `[C, h, w]`, `shape` of its input."""
        if run is None:
            return None
        constant = run(torch.zeros((1, *shape), dtype=made.dtype))
        return KnownShortcut(run, made[None], active[None].to(made), constant)

    @property
    def weight(self) -> float:
        """Of these equations, so that their right side has norm 1."""
        return 1 / max(float((self.active * self.made).norm()), 1e-300)

    def gap(self, maps: Tensor) -> Tensor:
        """Weighted residual at maps `[I, H, W]`."""
        return self.weight * self.active * (self.run(maps[None]) - self.made)

    def forward(self, change: Tensor) -> Tensor:
        """What a change of the maps does to it."""
        return self.weight * self.active * (self.run(change[None]) - self.constant)

    def backward(self, gap: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The transpose of `forward`."""
        maps = torch.zeros((1, *shape), dtype=gap.dtype, requires_grad=True)
        with torch.enable_grad():
            made = self.run(maps)
        return torch.autograd.grad(made, maps, self.weight * self.active * gap)[0][0]


@dataclass(frozen=True, eq=False)
class Coupled:
    """The equations of one convolution with BatchNorm behind it.

    Attributes:
        convolution: both.
        cotangent: derivative of the loss with respect to BatchNorm's output, `[O, P]`.
        mean: of it over positions, `[O, 1]`.
        product: mean of it times zhat, `[O, 1]`.
        observed: the weight gradient, `[O, I * window]`.
        values: BatchNorm's output after ReLU `[O, P]`, where known.
        shortcut: what the block's shortcut makes of the input, where that is known.
    """

    convolution: Convolution
    cotangent: Tensor
    mean: Tensor
    product: Tensor
    observed: Tensor
    values: Tensor | None
    shortcut: "KnownShortcut | None" = None

    @staticmethod
    def of(
        convolution: Convolution,
        cotangent: Tensor,
        update: dict[str, Tensor],
        values: Tensor | None = None,
        shortcut: "KnownShortcut | None" = None,
    ) -> "Coupled | str":
        """The equations, or one clause why there are none: `update` in float64, `cotangent` `[O, h, w]`."""
        norm = convolution.norm
        if norm is None or norm.factor_name is None or norm.summand_name is None:
            return f"{convolution.layer.name} has no trained BatchNorm behind it"
        flat = cotangent.flatten(1)
        mean, product = (update[name].view(-1, 1) / flat.shape[1] for name in (norm.summand_name, norm.factor_name))
        known = None if values is None else values.flatten(1)
        return Coupled(convolution, flat, mean, product, update[convolution.layer.name].flatten(1), known, shortcut)

    def to(self, like: Tensor) -> "Coupled":
        """The weight gradient's equations in another precision, on another device."""
        norm = self.convolution.norm
        return Coupled(
            replace(self.convolution, norm=None if norm is None else norm.to(like)),
            self.cotangent.to(like),
            self.mean.to(like),
            self.product.to(like),
            self.observed.to(like),
            None,
        )

    def columns(self, maps: Tensor) -> Tensor:
        """The windows of maps `[I, H, W]`, `[I * window, P]`."""
        layer = self.convolution.layer
        return functional.unfold(maps[None], layer.weight.shape[2:], layer.dilation, layer.padding, layer.stride)[0]

    def normalized(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """What BatchNorm makes before its factor, zhat `[O, P]`, and the deviation `[O, 1]`."""
        assert self.convolution.norm is not None
        made = self.convolution.norm.weight.flatten(1) @ columns
        made = made - made.mean(dim=1, keepdim=True)
        deviation = (made.square().mean(dim=1, keepdim=True) + self.convolution.norm.epsilon).sqrt()
        return made / deviation, deviation

    def below(self, maps: Tensor) -> Tensor:
        """D `[O, P]` at an input: derivative of the loss with respect to the convolution's output."""
        return self.cotangent_below(*self.normalized(self.columns(maps)))

    def cotangent_below(self, zhat: Tensor, deviation: Tensor) -> Tensor:
        """D `[O, P]` from what BatchNorm makes."""
        assert self.convolution.norm is not None
        gain = self.convolution.norm.factor.view(-1, 1) / deviation
        return gain * (self.cotangent - self.mean - self.product * zhat)

    def through(self, cotangent: Tensor) -> Tensor:
        """Derivative with respect to the convolution's input `[I, H, W]` of one with respect to its output `[O, P]`."""
        norm, layer = self.convolution.norm, self.convolution.layer
        assert norm is not None
        return transposed(layer, cotangent.view(layer.output_shape), norm.weight)
