"""The top of a residual network in training mode: masks and input of the last convolution, without any start.

As in evaluation mode (see `masks`), the weight gradient is for each tap w of the kernel `dW_w = D S_w U`, with U
`[positions, I]` the input and D `[O, positions]` the cotangents, but D is no longer binary times a known factor: its
rows have mean zero, so that it lacks a rank, whose direction is known. With D = L H^-1 Q^T, where L spans the columns
of all dW_w and Q the vectors of mean zero, H and the input's means m solve

    H Y_w = A_w H Y_0 + s_w m^T,    Y_w = L^T dW_w,  A_w = Q^T S_w Q,  s_w = Q^T S_w 1,  0 the central tap,

linear and homogeneous again. Then `U = Q H Y_0 + 1 m^T` up to its scale, and D tells the masks.
"""

import torch
from torch import Tensor

from gradleak.attacks.relu.stack import patches
from gradleak.attacks.residual.network import Convolution

_MOST_POSITIONS = 64
_NEGLIGIBLE = 1e-6
_INVERSE_ITERATIONS = 30
_CONVERGED = 1e-10
# Distance of a mask from 0 and 1 above which it is not believed; float32 updates give at most about 5e-3.
_BINARY = 0.2


def pooled_top(convolution: Convolution, update: dict[str, Tensor], cotangents: Tensor) -> tuple[Tensor, Tensor] | str:
    """Masks of the units whose average is the classifier's input, and the last convolution's input.

    Args:
        convolution: the last one, with BatchNorm behind it.
        update: the gradient by name, float64.
        cotangents: derivative of the loss with respect to every unit of a channel, `[O]`.

    Returns:
        Booleans `[O, h, w]`, and the input `[I, h, w]` up to a positive factor; or one clause why not.
    """
    layer, norm = convolution.layer, convolution.norm
    if norm is None or norm.factor_name is None or norm.summand_name is None:
        return f"{layer.name} has no trained BatchNorm behind it"
    channels, height, width = layer.output_shape
    positions = height * width
    if positions > _MOST_POSITIONS or positions > channels or layer.input_shape[1:] != layer.output_shape[1:]:
        return f"{layer.name} has {positions} positions for {channels} channels; at most as many are solved for"
    moves = patches(layer).permute(1, 2, 0)
    center = next((tap for tap, move in enumerate(moves) if torch.equal(move, torch.eye(len(move)).to(move))), None)
    if center is None or len(moves) < 9 or not bool(cotangents.all()):
        return (
            f"the kernel of {layer.name} does not see every position with its neighbours, or a channel has no cotangent"
        )
    taps = (update[layer.name].flatten(2) / cotangents.view(-1, 1, 1)).permute(2, 0, 1)  # [taps, O, I]
    left, singular, _ = torch.linalg.svd(taps.permute(1, 0, 2).flatten(1), full_matrices=False)
    rank = int((singular[:positions] > _NEGLIGIBLE * singular[0]).sum())
    if rank != positions - 1:
        return f"the cotangents behind {layer.name} have rank {rank} where {positions - 1} was expected"
    left = left[:, :rank]
    free = torch.linalg.qr(torch.eye(positions, dtype=torch.float64)[:, 1:] - 1 / positions)[0]  # mean zero
    inverse, means = _common_solution(left.T @ taps, moves, center, free)
    maps = free @ inverse @ (left.T @ taps[center]) + means
    below = left @ torch.linalg.inv(inverse) @ free.T * cotangents[:, None]
    sign = maps.sum().sign()
    maps, below = sign * maps.T, sign * below
    shape = (layer.input_shape[0], height, width)
    made = convolution.convolved(maps.view(1, *shape))[0].flatten(1)
    made = made - made.mean(dim=1, keepdim=True)
    deviation = made.square().mean(dim=1, keepdim=True).sqrt()
    mean, product = (update[name].view(-1, 1) / positions for name in (norm.summand_name, norm.factor_name))
    gain = deviation / norm.factor.view(-1, 1)
    masks = (below * gain + mean + product * made / deviation) / cotangents.view(-1, 1)
    apart = float((masks - masks.round()).abs().max())
    if not apart < _BINARY or not bool(((masks > -0.5) & (masks < 1.5)).all()):
        return f"the masks behind {layer.name} came out {apart:.1g} away from 0 and 1: rounding or noise"
    # At a scale far from the true one BatchNorm's epsilon would count too much or too little.
    usual = (norm.deviation / deviation[:, 0]).median()
    return (masks > 0.5).view(channels, height, width), usual * maps.view(shape)


def _common_solution(taps: Tensor, moves: Tensor, center: int, free: Tensor) -> tuple[Tensor, Tensor]:
    """H `[R, R]` and m `[I]` for Y `[taps, R, I]`, S `[taps, P, P]` and Q `[P, R]`, up to their common scale."""
    rank, inputs = taps.shape[1:]
    size, middle = rank * rank, taps[center]
    others = [tap for tap in range(len(taps)) if tap != center]
    moved = free.T @ moves[others] @ free
    border = moves[others].sum(dim=2) @ free  # [taps, R]
    products = taps[others] @ middle.T
    # Sums of Kronecker products, all in one: each pair adds left[a, b] right[i, j] at row (a, i), column (b, j).
    unit, gram = torch.eye(rank, dtype=torch.float64), (taps[others] @ taps[others].mT).sum(dim=0)
    pairs = (
        torch.stack([unit, (moved.mT @ moved).sum(dim=0), *-moved, *-moved.mT]),
        torch.stack([gram, middle @ middle.T, *products, *products.mT]),
    )
    summed = (pairs[0].flatten(1).T @ pairs[1].flatten(1)).view(rank, rank, rank, rank).permute(0, 2, 1, 3)
    normal = torch.zeros((size + inputs, size + inputs), dtype=torch.float64)
    normal[:size, :size] = summed.reshape(size, size)
    means = torch.einsum("wba,wb,ji->aji", moved, border, middle) - torch.einsum("wa,wji->aji", border, taps[others])
    normal[:size, size:] = means.reshape(size, inputs)
    normal[size:, :size] = normal[:size, size:].T
    normal[size:, size:].diagonal().add_(float(border.square().sum()))
    # Just enough to be positive definite; inverse iteration is not disturbed by it.
    normal.diagonal().add_(1e-15 * float(normal.diagonal().mean()))
    factor, failed = torch.linalg.cholesky_ex(normal)
    vector = torch.cat([unit.flatten(), torch.ones(inputs, dtype=torch.float64)])[:, None]
    if int(failed):
        vector = torch.full_like(vector, torch.nan)
    for _ in range(_INVERSE_ITERATIONS):
        before, vector = vector, torch.cholesky_solve(vector, factor)
        vector = vector / vector.norm()
        if float((vector - before).norm()) < _CONVERGED:
            break
    return vector[:size].view(rank, rank), vector[size:, 0]
