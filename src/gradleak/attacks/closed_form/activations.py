"""Elementwise functions with their inverses, and their slopes as functions of their values."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

ActivationKind = Literal["sigmoid", "tanh", "softplus", "leaky_relu", "elu", "relu"]


@dataclass(frozen=True)
class Activation:
    """An elementwise function; all but `relu` can be inverted.

    Attributes:
        kind: which function.
        parameter: beta of softplus, slope of leaky_relu, alpha of elu; without meaning for the others.
    """

    kind: ActivationKind
    parameter: float = 1.0

    def __call__(self, inputs: Tensor) -> Tensor:
        """Values of any shape."""
        functions: dict[ActivationKind, Callable[[Tensor], Tensor]] = {
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "relu": torch.relu,
            "softplus": lambda z: nn.functional.softplus(z, beta=self.parameter),
            "leaky_relu": lambda z: nn.functional.leaky_relu(z, self.parameter),
            "elu": lambda z: nn.functional.elu(z, self.parameter),
        }
        return functions[self.kind](inputs)

    @property
    def interval(self) -> tuple[float, float]:
        """Infimum and supremum of its values."""
        ranges: dict[ActivationKind, tuple[float, float]] = {
            "sigmoid": (0.0, 1.0),
            "tanh": (-1.0, 1.0),
            "relu": (0.0, math.inf),
            "softplus": (0.0, math.inf),
            "leaky_relu": (-math.inf, math.inf),
            "elu": (-self.parameter, math.inf),
        }
        return ranges[self.kind]

    def inverse(self, values: Tensor) -> Tensor:
        """The input that gives `values`, which lie strictly inside the interval; of relu, the values themselves."""
        if self.kind == "sigmoid":
            return torch.logit(values)
        if self.kind == "tanh":
            return torch.atanh(values)
        if self.kind == "softplus":
            # log(exp(b y) - 1) / b, without overflow for large y.
            return values + torch.log(-torch.expm1(-self.parameter * values)) / self.parameter
        if self.kind == "elu":
            return torch.where(values > 0, values, torch.log1p((values / self.parameter).clamp(min=-1)))
        slope = self.parameter if self.kind == "leaky_relu" else 1.0
        return torch.where(values > 0, values, values / slope)

    def slope(self, values: Tensor) -> Tensor:
        """The derivative at the input that gives `values`."""
        if self.kind == "sigmoid":
            return values * (1 - values)
        if self.kind == "tanh":
            return 1 - values.square()
        if self.kind == "softplus":
            return -torch.expm1(-self.parameter * values)
        if self.kind == "elu":
            return torch.where(values > 0, torch.ones_like(values), values + self.parameter)
        low = self.parameter if self.kind == "leaky_relu" else 0.0
        return torch.where(values > 0, torch.ones_like(values), torch.full_like(values, low))
