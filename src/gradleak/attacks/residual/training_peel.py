"""Peeling a residual network whose BatchNorm normalizes with the batch, from the classifier down, for one example.

The order is that of `peel`, and so are the masks; what differs is that each layer's cotangent depends on the layer's
own input (see `coupled`), and that the input is found up to a factor, which the gradient of the summand below tells:
the part of its cotangents that comes through the layer falls as the input grows.
"""

import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from gradleak.attacks.residual.coupled import Coupled, KnownShortcut
from gradleak.attacks.residual.coupled_solver import Solved, crude_start, solve
from gradleak.attacks.residual.masks import settled
from gradleak.attacks.residual.network import Network
from gradleak.attacks.residual.peel import Front, through_shortcut
from gradleak.attacks.residual.pooled import pooled_top

_MOST_LEFT_OVER = 2_048
_LARGEST_MATRIX = 4_000_000
_DEVIATIONS = 20
# Of a layer's largest input: an estimate of an active unit is hardly ever that small.
_FLOOR = 1e-5
_BELIEVED = 1e-4
# Cotangents carry the errors of the layers above, not only the rounding of the update.
_ROUNDINGS = 20


def peel_in_training(
    network: Network, update: dict[str, Tensor], rounding: float, *, ends: float = math.inf
) -> Front | str:
    """Peel as far as the equations determine a layer's input.

    Args:
        network: the network, whose convolutions all have `batch` set.
        update: the gradient of one example by name, float64.
        rounding: relative rounding of its entries.
        ends: reading of `time.perf_counter` after which no further layer is begun.

    Returns:
        Where it ends, with the cotangent at BatchNorm's output, or one clause why it cannot begin.
    """
    residual = update[network.head_bias]
    if not bool(residual.any()):
        return f"every entry of {network.head_bias} is zero: the example leaves no residual"
    top = network.blocks[-1].convolutions[-1]
    shape = top.layer.output_shape
    each = residual @ network.head_weight / (shape[1] * shape[2])
    found = pooled_top(top, update, each)
    if isinstance(found, str):
        return found
    masks, maps = found
    front = Front(len(network.blocks) - 1, len(network.blocks[-1].convolutions) - 1, masks * each.view(-1, 1, 1))
    over_block, start = front.cotangent, maps
    while True:
        late = time.perf_counter() > ends
        below = "the time is over" if late else _step(network, front, over_block, update, rounding, start)
        if isinstance(below, str):
            return replace(front, account=(*front.account, below))
        if below.block < front.block:
            over_block = below.cotangent
        front, start = below, None


def _step(
    network: Network,
    front: Front,
    over_block: Tensor,
    update: dict[str, Tensor],
    rounding: float,
    start: Tensor | None,
) -> Front | str:
    """One convolution further down, or why not."""
    block = network.blocks[front.block]
    convolution = block.convolutions[front.place]
    layer = convolution.layer
    if front.block == 0 and front.place == 0:
        return f"{layer.name} is the first"
    rows, pixels = layer.weight[:, 0].numel(), layer.input_shape[1] * layer.input_shape[2]
    if rows * pixels > _LARGEST_MATRIX or layer.input_shape[0] * max(0, pixels - rows) > _MOST_LEFT_OVER:
        return f"{layer.name} has {rows} equations for {pixels} entries of each channel"
    known = None
    last = len(block.convolutions) - 1
    if front.place == 0 and last > 0 and front.outputs is not None and front.last_input is not None:
        made = front.outputs - block.convolutions[last](front.last_input[None])[0]
        known = KnownShortcut.of(block.shortcut, made, front.outputs > 0, layer.input_shape)
    equations = Coupled.of(convolution, front.cotangent, update, front.values, known)
    if isinstance(equations, str):
        return equations
    assert convolution.norm is not None
    solved = solve(equations, crude_start(equations, convolution.norm.deviation) if start is None else start, rounding)
    if front.place > 0:
        below, shortcut = block.convolutions[front.place - 1], torch.zeros(layer.input_shape, dtype=torch.float64)
    else:
        below = network.blocks[front.block - 1].convolutions[-1]
        shortcut = through_shortcut(block, layer.input_shape, over_block)
    sums = below.bias_gradient(update)
    if known is None:
        solved = _scaled(equations, solved, shortcut, sums, rounding)
    if isinstance(solved, str):
        return solved
    if not solved.misfit < _BELIEVED:
        return f"{layer.name} fits its equations only to {solved.misfit:.0e}"
    cotangent = equations.through(equations.below(solved.maps)) + shortcut
    error = (_DEVIATIONS * solved.error).clamp_min(_FLOOR * float(solved.maps.max()))
    masks = settled(solved.maps, error, cotangent, sums, _ROUNDINGS * rounding)
    if isinstance(masks, str):
        return f"input of {layer.name}: {masks}"
    account = (*front.account, f"{layer.name} solved")
    values = solved.maps * masks
    if front.place == 0:
        place = len(network.blocks[front.block - 1].convolutions) - 1
        return Front(front.block - 1, place, cotangent * masks, outputs=values, account=account)
    return Front(
        front.block,
        front.place - 1,
        cotangent * masks,
        values=values,
        outputs=front.outputs,
        last_input=values if front.place == last else front.last_input,
        account=account,
    )


def _scaled(equations: Coupled, solved: Solved, shortcut: Tensor, sums: Tensor | None, rounding: float) -> Solved | str:
    """The input with the scale at which the cotangents below add up to the summand's gradient `sums` `[I]`."""
    if sums is None:
        return f"nothing tells the scale of the input of {equations.convolution.layer.name}"
    for _ in range(2):
        through = equations.through(equations.below(solved.maps))
        active = solved.maps > (_DEVIATIONS * solved.error).clamp_min(_FLOOR * float(solved.maps.max()))
        part, rest = ((active * one).flatten(1).sum(dim=1) for one in (through, shortcut))
        factor = _weighted_median((sums - rest) / part, part.abs())
        if not factor > 0:
            return f"the scale of the input of {equations.convolution.layer.name} came out {factor:.1g}"
        solved = solve(equations, solved.maps / factor, rounding)
    return solved


def _weighted_median(values: Tensor, weights: Tensor) -> float:
    """Half of the weight is below it; entries without weight do not count."""
    kept = weights > 0
    order = values[kept].argsort()
    shares = weights[kept][order].cumsum(dim=0)
    if not len(shares):
        return float("nan")
    return float(values[kept][order][int((shares < shares[-1] / 2).sum())])
