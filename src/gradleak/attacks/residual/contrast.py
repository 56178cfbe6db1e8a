"""The contrast of a single image under BatchNorm in training mode, which the gradient does not tell.

The first convolution has no bias that counts, and BatchNorm divides by the image's own deviation: the normalized image
times any positive factor makes the same gradient, but for BatchNorm's epsilon, and only its border tells its mean
color, weakly. Sent running statistics tell both. Without them the search runs at a fixed contrast, and in the end it is
taken to be the largest with which the pixels stay within their bounds, which most photographs reach somewhere. On 1,000
random CIFAR-10 training images that alone costs nothing on half of them and leaves 27 dB on all but 5 %.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradleak.attacks.batch_statistics import inferred_statistics
from gradleak.attacks.residual.network import Network
from gradleak.clients.settings import stateful_layers
from gradleak.threat import Observation

Coordinates = Callable[[Tensor], Tensor]
"""From a flat point to the flat image that it stands for."""


# Share of the entries that may lie beyond the bounds, for what the search has not settled.
_BEYOND = 0.001
# How much farther than its entries an image's mean colors move.
_COLORS = 30.0


def as_it_is(point: Tensor) -> Tensor:
    """The point itself."""
    return point


def unit_contrast(network: Network, shape: tuple[int, ...]) -> Coordinates:
    """Images `shape` whose normalized values have a mean square of 1, in coordinates that move mean colors far."""

    def image(point: Tensor) -> Tensor:
        variable = point.view(shape)
        # Mean colors count little; in these coordinates small steps move them far.
        variable = variable + _COLORS * (variable - 0.5).mean(dim=(2, 3), keepdim=True)
        size = network.normalized(variable).square().mean().sqrt()
        return network.scaled(variable, 1 / size.clamp_min(1e-6)).flatten()

    return image


def first_statistics(observation: Observation, network: Network) -> tuple[Coordinates, str] | str:
    """What sent buffers say about the image itself: mean and variance behind the first convolution.

    Args:
        observation: what the attacker holds.
        network: in training mode.

    Returns:
        From a flat image to how far its statistics are off, `[2 O]`, in units of each channel's deviation and divided
        by the root of the number of channels, and a clause for people; or one clause why nothing is said.
    """
    statistics = inferred_statistics(observation)
    if isinstance(statistics, str):
        return statistics
    first = network.blocks[0].convolutions[0]
    assert first.norm is not None
    name = _layer_of(observation, first.norm.summand_name)
    if name not in statistics.variances:
        return "the client sent no statistics of the first layer"
    shape = (1, *first.layer.input_shape)
    mean, deviation = statistics.means[name], (statistics.variances[name].clamp_min(0) + first.norm.epsilon).sqrt()
    scale = 1 / math.sqrt(len(mean))

    def off(point: Tensor) -> Tensor:
        made = first.convolved(network.normalized(point.view(shape))).flatten(2)[0]
        known = mean.to(point), deviation.to(point)
        spread = (made.var(dim=1, correction=0) + 1e-5).sqrt()
        return scale * torch.cat([(made.mean(dim=1) - known[0]) / known[1], spread / known[1] - 1])

    return off, statistics.describe()


def stretched(observation: Observation, network: Network, variable: Tensor) -> Tensor:
    """The image at the largest contrast with which all but a few entries stay within the space's bounds."""
    low, high = observation.task.space.bounds or (0.0, 1.0)
    normalized = network.normalized(variable)
    ends = [network.normalized(torch.full_like(variable, bound)) for bound in (low, high)]
    reached = torch.where(normalized > 0, ends[1], ends[0]) / torch.where(normalized == 0, 1e-9, normalized)
    factor = reached.flatten().kthvalue(1 + int(_BEYOND * reached.numel())).values
    return network.scaled(variable, factor)


def _layer_of(observation: Observation, summand: str | None) -> str:
    """The BatchNorm layer whose summand has this name in an update."""
    return next(
        (name for name in stateful_layers(observation.task.model) if summand == (f"{name}.bias" if name else "bias")),
        "",
    )
