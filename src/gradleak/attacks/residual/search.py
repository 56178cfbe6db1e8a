"""The image behind a peeled network: what is known about the lowest solved layer, without any second backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.attacks.residual.coupled import Coupled
from gradleak.attacks.residual.network import Convolution, Network
from gradleak.attacks.residual.peel import Front

Residual = Callable[[Tensor], Tensor]
"""From a flat image `[D]` to residuals `[R]`."""


def residual_of(network: Network, front: Front, update: dict[str, Tensor], like: Tensor) -> Residual:
    """What a candidate misses of everything that is known; zero at the true image.

    Three groups, each divided by its observed norm: the weight gradient of the front's layer, linear in that layer's
    input because its cotangent is known (but for BatchNorm in training mode, see `coupled`); the layer's output; and
    the output of its block, where its last convolution's input is known. Of an output after ReLU, an inactive unit
    tells only that it was not positive.

    Args:
        network: the network.
        front: where peeling ended.
        update: the gradient by name, float64.
        like: gives precision and device.

    Returns:
        The residual of one flat image.
    """
    network = network.to(like)
    block = network.blocks[front.block]
    convolution = block.convolutions[front.place]
    last = len(block.convolutions) - 1
    gradient_of, observed = _weight_gradient(convolution, front, update, like)
    size = observed.norm()
    values, outputs, highest = (
        None if known is None else known.to(like) for known in (front.values, front.outputs, front.last_input)
    )
    above = None
    if outputs is not None and front.place != last and highest is not None:
        above = block.convolutions[last](highest[None])
    shape = (1, *network.blocks[0].convolutions[0].layer.input_shape)

    def residual(candidate: Tensor) -> Tensor:
        entering = network.entering(candidate.view(shape), front.block)
        received = block.inner(entering, front.place)
        parts = [(gradient_of(received) - observed).flatten() / size]
        made = convolution(received)
        if values is not None:
            parts.append(_missed(made, values))
        shortcut = 0 if block.shortcut is None else block.shortcut(entering)
        if outputs is not None and front.place == last:
            parts.append(_missed(made + shortcut, outputs))
        elif outputs is not None and above is not None:
            parts.append(_missed(above + shortcut, outputs))
        return torch.cat(parts)

    return residual


def _weight_gradient(
    convolution: Convolution, front: Front, update: dict[str, Tensor], like: Tensor
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The weight gradient of the front's layer as a function of what it receives, and the observed one."""
    layer = convolution.layer
    if convolution.batch:
        norm = convolution.norm
        equations = Coupled.of(convolution, front.cotangent, update)
        assert norm is not None
        assert not isinstance(equations, str)
        equations = equations.to(like)

        def coupled(received: Tensor) -> Tensor:
            columns = equations.columns(received[0])
            return equations.cotangent_below(*equations.normalized(columns)) @ columns.T

        return coupled, equations.observed
    cotangent, observed = front.cotangent.to(like).flatten(1), convolution.weight_gradient(update).to(like)

    def linear(received: Tensor) -> Tensor:
        windows = functional.unfold(
            received.transpose(0, 1), layer.weight.shape[2:], layer.dilation, layer.padding, layer.stride
        )
        return torch.einsum("iwl,ol->oiw", windows, cotangent).view(observed.shape)

    return linear, observed


def _missed(made: Tensor, known: Tensor) -> Tensor:
    """Distance of what enters a ReLU `[1, C, h, w]` to its known output `[C, h, w]`, relative to that output's norm."""
    return torch.where(known > 0, made[0] - known, torch.relu(made[0])).flatten() / known.norm()
