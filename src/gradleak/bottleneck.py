"""A layer with a latent variable that is drawn anew for every example, in training and in evaluation.

PRECODE (Scheliga, Maeder, Seeland, *PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage*, WACV 2022)
puts one before a classifier: the gradients of the layers below depend on the draw, which is the client's secret.
"""

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from gradleak.errors import refuse
from gradleak.seeds import stage_generator, torch_seed

WIDTH = 256
"""Entries of the published latent variable."""

BETA = 1e-3
"""Published weight of the divergence in the loss."""


class LatentNoise(nn.Module):
    """Draws N(0, I) from torch's own generator; clients put their own draws in its place."""

    def forward(self, mean: Tensor) -> Tensor:
        """Noise of the shape of what it is added to."""
        return torch.randn_like(mean)


class VariationalBottleneck(nn.Module):
    """`z = mu + exp(log_variance / 2) * noise`, between a linear encoder and a linear decoder.

    Args:
        features: what enters and leaves, for each example.
        width: entries of the latent variable z.
        beta: weight of the divergence from N(0, I) in the loss, see `auxiliary_loss`.
    """

    def __init__(self, features: int, width: int = WIDTH, beta: float = BETA) -> None:
        super().__init__()
        self.width = width
        self.beta = beta
        self.encoder = nn.Linear(features, 2 * width)
        self.noise = LatentNoise()
        self.decoder = nn.Linear(width, features)
        self.divergence: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Features `[N, ..., D]` made of the latent variable; the divergence is kept for `auxiliary_loss`."""
        mean, log_variance = self.encoder(features).chunk(2, dim=-1)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=-1)
        self.divergence = divergence.mean()
        return self.decoder(mean + (log_variance / 2).exp() * self.noise(mean))

    def __getstate__(self) -> dict[str, object]:
        """Without the last divergence, which belongs to one forward pass and cannot be copied."""
        return {**self.__dict__, "divergence": None}


def bottlenecks(model: nn.Module) -> dict[str, VariationalBottleneck]:
    """The bottlenecks of a model by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, VariationalBottleneck)}


def auxiliary_loss(model: nn.Module) -> Tensor | None:
    """What a model's bottlenecks add to the loss: beta times the mean divergence of the last forward pass.

    Args:
        model: after a forward pass, which this forgets.

    Returns:
        A scalar; None for a model without bottlenecks, or without a forward pass since the last call.
    """
    total: Tensor | None = None
    for layer in bottlenecks(model).values():
        if layer.divergence is not None:
            term = layer.beta * layer.divergence
            total = term if total is None else total + term
        layer.divergence = None
    return total


def with_bottleneck(
    model: nn.Module, width: int = WIDTH, beta: float = BETA, seed: int = 0, layer: str | None = None
) -> nn.Module:
    """A copy of a model with a bottleneck before a linear layer.

    The linear layer's place is taken by two modules, `bottleneck` and `head`, so that the parameters of a model whose
    classifier is `linear` are called `linear.bottleneck.encoder.weight` and so on, and `linear.head.weight`.

    Args:
        model: left as it is.
        width: entries of the latent variable.
        beta: weight of the divergence in the loss.
        seed: decides the new layers' weights, PyTorch's default initialization.
        layer: name of the linear layer; None for the last that is trained.

    Returns:
        The copy; the model itself if it has a bottleneck already, as one that was trained with it.

    Raises:
        BadInput: when there is no such linear layer, or a number is out of range.
    """
    if bottlenecks(model):
        return model
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part.weight.requires_grad]
    refuse(bottleneck_problems(width, beta, seed) + _layer_problems(linear, layer))
    model = copy.deepcopy(model)
    name = linear[-1] if layer is None else layer
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    with torch_seed(stage_generator(seed, "bottleneck").initial_seed()):
        bottleneck = VariationalBottleneck(head.in_features, width, beta)
    bottleneck.to(head.weight.device, head.weight.dtype).train(model.training)
    both = nn.Sequential(OrderedDict(bottleneck=bottleneck, head=head))
    if not name:
        return both
    model.set_submodule(name, both)
    return model


def bottleneck_problems(width: int, beta: float, seed: int) -> list[str]:
    """Settings of a bottleneck outside their range, one line each."""
    found: list[str] = []
    if width < 1:
        found.append(f"width: expected at least 1 latent entry, got {width}; the published value is {WIDTH}")
    if not 0 <= beta < float("inf"):
        found.append(f"beta: expected a finite weight of at least 0, got {beta}; the published value is {BETA}")
    if seed < 0:
        found.append(f"seed: expected at least 0, got {seed}; it decides the bottleneck's weights")
    return found


def _layer_problems(linear: list[str], layer: str | None) -> list[str]:
    if layer in linear or (layer is None and linear):
        return []
    known = ", ".join(map(repr, linear)) or "none"
    return [f"layer: expected a trained linear layer for the bottleneck, got {layer!r}; the model's are: {known}"]
