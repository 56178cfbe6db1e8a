"""The contrast of a single image under BatchNorm in training mode, which the gradient does not tell.

The first convolution has no bias that counts, and BatchNorm divides by the image's own deviation: the normalized image
times any positive factor makes the same gradient, but for BatchNorm's epsilon. The search therefore runs at a fixed
contrast. Sent running statistics tell the factor exactly; without them stands what the space's mean and std are for:
normalized images have a mean square of 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gradleak.attacks.batch_statistics import inferred_statistics
from gradleak.attacks.residual.network import Network
from gradleak.clients.settings import stateful_layers
from gradleak.threat import Observation

Coordinates = Callable[[Tensor], Tensor]
"""From a flat point to the flat image that it stands for."""


def as_it_is(point: Tensor) -> Tensor:
    """The point itself."""
    return point


def unit_contrast(network: Network, shape: tuple[int, ...]) -> Coordinates:
    """Images `shape` whose normalized values have a mean square of 1."""

    def image(point: Tensor) -> Tensor:
        variable = point.view(shape)
        size = network.normalized(variable).square().mean().sqrt()
        return network.scaled(variable, 1 / size.clamp_min(1e-6)).flatten()

    return image


def with_contrast(observation: Observation, network: Network, variable: Tensor) -> tuple[Tensor, str]:
    """The image at its contrast, as far as known, and one clause that says how that was found.

    Args:
        observation: what the attacker holds.
        network: in training mode.
        variable: the image `[1, C, H, W]` at any contrast.

    Returns:
        Both.
    """
    statistics = inferred_statistics(observation)
    if isinstance(statistics, str):
        return variable, f"contrast unknown, set to the usual one ({statistics})"
    first = network.blocks[0].convolutions[0]
    with torch.no_grad():
        made = first.convolved(network.normalized(variable.double()))
    moments = made.mean(dim=(0, 2, 3)), made.var(dim=(0, 2, 3), correction=0)
    assert first.norm is not None
    name = _layer_of(observation, first.norm.summand_name)
    if name not in statistics.variances:
        return variable, "contrast unknown, set to the usual one (no statistics of the first layer)"
    factor = (statistics.variances[name].sum() / moments[1].sum()).clamp_min(0).sqrt()
    return network.scaled(variable, factor.to(variable)), statistics.describe()


def _layer_of(observation: Observation, summand: str | None) -> str:
    """The BatchNorm layer whose summand has this name in an update."""
    return next(
        (name for name in stateful_layers(observation.task.model) if summand == (f"{name}.bias" if name else "bias")),
        "",
    )
