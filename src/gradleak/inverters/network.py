"""The inverter: a few coordinates of an update, standardized, through a network with hidden layers, to an input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

LIMIT = 5.0
"""Standardized coordinates are clamped to this, so that a coordinate that is seldom sent cannot drown the others."""

_LEVEL = 0.01
"""Initial outputs of bounded inputs keep this distance from the bounds, in shares of the range."""


@dataclass(frozen=True, eq=False)
class Features:
    """Which coordinates of an update the network sees, and how they are standardized.

    Attributes:
        indices: positions `[F]` in the update as one vector, in the order of the model's parameters, int64.
        mean: `[F]`, over training examples.
        scale: `[F]`, standard deviation over training examples, above 0.
    """

    indices: Tensor
    mean: Tensor
    scale: Tensor

    def of(self, updates: Tensor) -> Tensor:
        """The standardized coordinates `[n, F]` of updates `[n, P]`."""
        return ((updates[:, self.indices] - self.mean) / self.scale).clamp(-LIMIT, LIMIT)


@dataclass(frozen=True, eq=False)
class Inverter:
    """A network from updates to inputs and labels (Wu, Chen, Guo, Weinberger, "Learning to Invert", UAI 2023).

    Attributes:
        features: what it sees.
        weights: `layers.K.weight` and `layers.K.bias`, float32, with ReLU between layers.
        shape: of one input.
        bounds: of the inputs; None for none.
        num_classes: the last outputs are logits of so many classes.
    """

    features: Features
    weights: Mapping[str, Tensor]
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None
    num_classes: int

    @classmethod
    def new(
        cls,
        features: Features,
        hidden: Sequence[int],
        mean: Tensor,
        bounds: tuple[float, float] | None,
        num_classes: int,
        generator: torch.Generator,
    ) -> "Inverter":
        """An untrained one, which says about the mean input for every update.

        Args:
            features: what it sees.
            hidden: widths of its hidden layers.
            mean: mean of the training inputs, `[*shape]`.
            bounds: of the inputs.
            num_classes: number of classes.
            generator: draws the weights.

        Returns:
            The inverter.
        """
        widths = [len(features.indices), *hidden, mean.numel() + num_classes]
        weights: dict[str, Tensor] = {}
        for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
            # He et al. 2015 before a ReLU; small at the end, so that the mean is where training begins.
            spread = (2 / inputs) ** 0.5 if layer < len(hidden) else 0.3 / inputs**0.5
            weights[f"layers.{layer}.weight"] = spread * torch.randn(outputs, inputs, generator=generator)
            weights[f"layers.{layer}.bias"] = torch.zeros(outputs)
        level = mean.flatten().float()
        if bounds is not None:
            low, high = bounds
            level = torch.logit(((level - low) / (high - low)).clamp(_LEVEL, 1 - _LEVEL))
        weights[f"layers.{len(hidden)}.bias"][: level.numel()] = level
        return cls(features, weights, tuple(mean.shape), bounds, num_classes)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.weights) // 2

    def with_weights(self, weights: Mapping[str, Tensor]) -> "Inverter":
        """The same with other weights."""
        return replace(self, weights=weights)

    def outputs(self, features: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """Inputs and logits from standardized coordinates.

        Args:
            features: `[n, F]`.
            dropout: share of hidden units left out, drawn from torch's own generator; 0 outside training.

        Returns:
            Inputs `[n, *shape]` within the bounds, and logits `[n, C]`.
        """
        values = features
        for layer in range(self.depth):
            values = functional.linear(
                values, self.weights[f"layers.{layer}.weight"], self.weights[f"layers.{layer}.bias"]
            )
            if layer < self.depth - 1:
                values = functional.dropout(values.relu(), dropout, training=dropout > 0)
        entries = prod(self.shape)
        inputs, logits = values[:, :entries], values[:, entries:]
        if self.bounds is not None:
            low, high = self.bounds
            inputs = low + (high - low) * inputs.sigmoid()
        return inputs.reshape(-1, *self.shape), logits

    def invert(self, update: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The input behind one update.

        Args:
            update: by name, in the order of the model's parameters.

        Returns:
            Input `[1, *shape]` and logits `[1, C]`, without gradient.
        """
        with torch.no_grad():
            return self.outputs(self.features.of(flat(update)[None]))


def flat(update: Mapping[str, Tensor]) -> Tensor:
    """An update as one vector `[P]`, float32 on the CPU."""
    return torch.cat([tensor.detach().cpu().float().flatten() for tensor in update.values()])
