"""The image behind a peeled network: what is known about the lowest solved layer, without any second backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.attacks.residual.network import Network
from gradleak.attacks.residual.peel import Front

Residual = Callable[[Tensor], Tensor]
"""From a flat image `[D]` to residuals `[R]`."""


def residual_of(network: Network, front: Front, weight_gradient: Tensor, like: Tensor) -> Residual:
    """What a candidate misses of everything that is known; zero at the true image.

    Three groups, each divided by its observed norm: the weight gradient of the front's layer, linear in that layer's
    input because its cotangent is known; the layer's output; and the output of its block, where its last convolution's
    input is known. Of an output after ReLU, an inactive unit tells only that it was not positive.

    Args:
        network: the network.
        front: where peeling ended.
        weight_gradient: of the front's convolution, float64.
        like: gives precision and device.

    Returns:
        The residual of one flat image.
    """
    network = network.to(like)
    block = network.blocks[front.block]
    layer = block.convolutions[front.place].layer
    last = len(block.convolutions) - 1
    cotangent, observed = front.cotangent.to(like).flatten(1), weight_gradient.to(like)
    size = observed.norm()
    values, outputs, highest = (
        None if known is None else known.to(like) for known in (front.values, front.outputs, front.last_input)
    )
    above = None
    if outputs is not None and front.place != last and highest is not None:
        above = block.convolutions[last].layer(highest[None])
    shape = (1, *network.blocks[0].convolutions[0].layer.input_shape)

    def residual(candidate: Tensor) -> Tensor:
        entering = network.entering(candidate.view(shape), front.block)
        received = block.inner(entering, front.place)
        windows = functional.unfold(
            received.transpose(0, 1), layer.weight.shape[2:], layer.dilation, layer.padding, layer.stride
        )
        gradient = torch.einsum("iwl,ol->oiw", windows, cotangent).view(observed.shape)
        parts = [(gradient - observed).flatten() / size]
        made = layer(received)
        if values is not None:
            parts.append(_missed(made, values))
        shortcut = 0 if block.shortcut is None else block.shortcut(entering)
        if outputs is not None and front.place == last:
            parts.append(_missed(made + shortcut, outputs))
        elif outputs is not None and above is not None:
            parts.append(_missed(above + shortcut, outputs))
        return torch.cat(parts)

    return residual


def _missed(made: Tensor, known: Tensor) -> Tensor:
    """Distance of what enters a ReLU `[1, C, h, w]` to its known output `[C, h, w]`, relative to that output's norm."""
    return torch.where(known > 0, made[0] - known, torch.relu(made[0])).flatten() / known.norm()
