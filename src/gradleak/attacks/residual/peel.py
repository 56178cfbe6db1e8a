"""Peeling a residual network from the classifier down: inputs and cotangents of its layers, as far as determined.

With the cotangent k of a convolution's output known, its weight gradient is linear in its input x, channel by channel:
`K(k) x_c = dW_c`. Where that leaves directions open, the known output of the layer decides them. The input's signs are
the masks of the ReLU below, which carry the cotangent on, and the bias gradient below checks them to the last bit.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.attacks.closed_form.layers import Affine
from gradleak.attacks.relu.stack import transposed, weight_gradient_matrix
from gradleak.attacks.residual.masks import pooled_masks, settled
from gradleak.attacks.residual.network import Block, Network

# Singular directions below this, relative to the largest, are left to the forward equations.
_OPEN = 1e-5
# Unknowns that may be left to them, and to begin with entries of the matrix that is decomposed.
_MOST_LEFT_OVER = 2_048
_LARGEST_MATRIX = 4_000_000
# Standard deviations that an estimate may be off: the noise of a channel is known from few equations, and its tails
# are heavy, while almost no active unit is that small.
_DEVIATIONS = 20
# Misfit of the equations, relative to their right side, above which something above was wrong.
_BELIEVED = 1e-4


@dataclass(frozen=True, eq=False)
class Front:
    """The lowest layer whose cotangent is known, and what is known around it.

    Attributes:
        block: place of its block.
        place: of the convolution in the block.
        cotangent: derivative of the loss with respect to its output, `[O, h, w]`, float64.
        values: its output after ReLU, if another convolution of the block follows and its input is known.
        outputs: of the block after ReLU, if known.
        last_input: what the block's last convolution receives, if known.
        account: one clause for each layer tried.
    """

    block: int
    place: int
    cotangent: Tensor
    values: Tensor | None = None
    outputs: Tensor | None = None
    last_input: Tensor | None = None
    account: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Input:
    """Estimated input of a convolution `[I, H, W]`, and how far each entry may be off."""

    values: Tensor
    error: Tensor


def peel(network: Network, update: dict[str, Tensor], rounding: float) -> Front | str:
    """Peel as far as the equations determine a layer's input.

    Args:
        network: the network.
        update: the gradient of one example by name, float64.
        rounding: relative rounding of its entries, for instance 1.2e-7 for float32.

    Returns:
        Where it ends, or one clause why it cannot begin.
    """
    residual = update[network.head_bias]
    if not bool(residual.any()):
        return f"every entry of {network.head_bias} is zero: the example leaves no residual"
    top = network.blocks[-1].convolutions[-1]
    shape = top.layer.output_shape
    each = residual @ network.head_weight / (shape[1] * shape[2])
    masks = pooled_masks(top.layer, top.weight_gradient(update), each)
    if isinstance(masks, str):
        return masks
    cotangent = masks * each.view(-1, 1, 1)
    front = Front(len(network.blocks) - 1, len(network.blocks[-1].convolutions) - 1, cotangent)
    over_block = cotangent
    while True:
        below = _step(network, front, over_block, update, rounding)
        if isinstance(below, str):
            return replace(front, account=(*front.account, below))
        if below.block < front.block:
            over_block = below.cotangent
        front = below


def _step(
    network: Network, front: Front, over_block: Tensor, update: dict[str, Tensor], rounding: float
) -> Front | str:
    """One convolution further down, or why not."""
    block = network.blocks[front.block]
    convolution = block.convolutions[front.place]
    layer = convolution.layer
    if front.block == 0 and front.place == 0:
        return f"{layer.name} is the first"
    found = _solve(layer, front, convolution.weight_gradient(update), rounding)
    if isinstance(found, str):
        return found
    cotangent = transposed(layer, front.cotangent)
    if front.place > 0:
        below = block.convolutions[front.place - 1]
    else:
        below = network.blocks[front.block - 1].convolutions[-1]
        cotangent = cotangent + through_shortcut(block, layer.input_shape, over_block)
    masks = settled(found.values, found.error, cotangent, below.bias_gradient(update), rounding)
    if isinstance(masks, str):
        return f"input of {layer.name}: {masks}"
    account = (*front.account, f"{layer.name} solved")
    values = found.values * masks
    if front.place == 0:
        place = len(network.blocks[front.block - 1].convolutions) - 1
        return Front(front.block - 1, place, cotangent * masks, outputs=values, account=account)
    is_last = front.place == len(block.convolutions) - 1
    return replace(
        front,
        place=front.place - 1,
        cotangent=cotangent * masks,
        values=values,
        last_input=values if is_last else front.last_input,
        account=account,
    )


def through_shortcut(block: Block, shape: tuple[int, ...], cotangent: Tensor) -> Tensor:
    """The shortcut's part of the derivative with respect to the block's input."""
    if block.shortcut is None:
        return torch.zeros(shape, dtype=torch.float64)
    zeros = torch.zeros((1, *shape), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        outputs = block.shortcut(zeros)
    return torch.autograd.grad(outputs, zeros, cotangent[None])[0][0]


def _solve(layer: Affine, front: Front, weight_gradient: Tensor, rounding: float) -> _Input | str:
    """The layer's input by least squares, channel by channel, and open directions by its known output."""
    channels, height, width = layer.input_shape
    rows, pixels = layer.weight[:, 0].numel(), height * width
    if rows * pixels > _LARGEST_MATRIX or channels * max(0, pixels - rows) > _MOST_LEFT_OVER:
        return f"{layer.name} has {rows} equations for {pixels} entries of each channel"
    matrix = weight_gradient_matrix(layer, front.cotangent)
    observed = weight_gradient.transpose(0, 1).flatten(1).T  # [O * window, I]
    # A row carries the rounding of what was summed up in it, which its cotangents tell.
    sizes = front.cotangent.flatten(1).abs().sum(dim=1)
    scale = torch.where(sizes > 0, 1 / sizes, 0).repeat_interleave(len(observed) // len(sizes))[:, None]
    matrix, observed = matrix * scale, observed * scale
    left, singular, right = torch.linalg.svd(matrix, full_matrices=True)
    rank = int((singular > _OPEN * singular[0]).sum())
    by_singular = right[:rank] / singular[:rank, None]
    values = (left[:, :rank].T @ observed).T @ by_singular
    missed = matrix @ values.T - observed
    misfit = float(missed.norm() / observed.norm().clamp_min(1e-300))
    if not misfit < _BELIEVED:
        return f"{layer.name} fits its equations only to {misfit:.0e}"
    spread = missed.square().sum(dim=0).sqrt() / math.sqrt(max(1, rows - rank))
    noise = torch.maximum(spread, rounding / 4 * values.abs().mean(dim=1))  # [I]
    error = _DEVIATIONS * noise[:, None] * by_singular.square().sum(dim=0).sqrt()
    found = _Input(values.view(layer.input_shape), error.view(layer.input_shape))
    return found if rank == pixels else _closed(layer, front, found, right[rank:])


def _closed(layer: Affine, front: Front, found: _Input, free: Tensor) -> _Input | str:
    """Fill the open directions `free` `[q, pixels]` of every channel from the layer's active outputs."""
    channels = layer.input_shape[0]
    unknowns = channels * len(free)
    if front.values is None or unknowns > _MOST_LEFT_OVER:
        return f"{layer.name} leaves {unknowns} directions of its input open"
    active = (front.values > 0).flatten()
    windows = functional.unfold(
        free.view(-1, 1, *layer.input_shape[1:]), layer.weight.shape[2:], layer.dilation, layer.padding, layer.stride
    )
    images = torch.einsum("oiw,qwl->oliq", layer.weight.flatten(2), windows).flatten(0, 1).flatten(1)[active]
    missing = (front.values - layer(found.values[None])[0]).flatten()[active]
    left, singular, right = torch.linalg.svd(images, full_matrices=False)
    if len(missing) < unknowns or singular[-1] < 1e-3 * singular[0]:
        return f"{layer.name} leaves directions of its input open: {unknowns} for {len(missing)} active outputs"
    by_singular = right / singular[:, None]
    coefficients = (left.T @ missing) @ by_singular
    rest = missing - images @ coefficients
    spread = by_singular.square().sum(dim=0).view(channels, -1) @ free.square()
    values = found.values + (coefficients.view(channels, -1) @ free).view(layer.input_shape)
    error = found.error + _DEVIATIONS * float(rest.square().mean().sqrt()) * spread.sqrt().view(layer.input_shape)
    return _Input(values, error)
