"""Which units are active: below an average pool by the algebra of shifts, elsewhere by values and checksums.

Behind an average pool every position of a channel gets the same derivative, `c_o`, if its unit is active and zero
otherwise. So the gradient of the convolution below is, for each tap w of its kernel,

    dW_w = diag(c) M S_w U,

with M `[O, positions]` the binary masks, U `[positions, I]` the layer's input, and S_w the known matrix that moves
positions by w and lets go what leaves the map. Neither M nor U is known, but with `H = M^-1` and `Y_w = dW_w / c`,

    S_w H Y_0 = H Y_w        for every tap w, with 0 the central tap,

because both sides are `S_w U`. These equations are linear in H. The moves up, down, left and right generate the whole
algebra of matrices, so that only multiples of H commute with all of them: H is unique up to its scale, which M's being
binary gives. Where M lacks a few ranks, which happens with channels that are active nowhere or everywhere, the solution
is approximate, and a few alternations between U and rounded masks make it exact.
"""

import torch
from torch import Tensor

from gradleak.attacks.closed_form.layers import Affine
from gradleak.attacks.relu.stack import patches

# Positions squared is the order of a factorization: 64 are a matter of seconds.
_MOST_POSITIONS = 64
# Singular values of the weight gradient below this count as zero: far above float32 rounding.
_NEGLIGIBLE = 3e-6
# Rounds of alternation from an approximate solution; one or two are enough, or none is.
_ALTERNATIONS = 20
# With a rank missing the second smallest eigenvalue is only a few times the smallest.
_INVERSE_ITERATIONS = 30
# Distance of an entry of M from 0 and 1 above which the masks are not believed; float32 updates give about 1e-5.
_BINARY = 0.05
# Units of one channel, the nearest to the threshold, among whose combinations its checksum decides.
_MOST_OPEN = 14
# Log of the ratio of an estimate to its threshold above which its mask is beyond doubt: a factor of 30.
_DOUBTFUL = 3.4
# Share of the threshold below which estimates are alike, and how far below zero an active unit may be estimated.
_SMALL = 0.05
_NEGATIVE = 0.25
# Roundings that a sum of cotangents carries, relative to the sum of their absolute values.
_ROUNDINGS = 4


def pooled_masks(layer: Affine, weight_gradient: Tensor, cotangents: Tensor) -> Tensor | str:
    """Masks of the units whose average is the classifier's input.

    Args:
        layer: the last convolution.
        weight_gradient: of that layer, `[O, I, height, width]`, float64.
        cotangents: derivative of the loss with respect to every unit of a channel, `[O]`.

    Returns:
        Booleans `[O, h, w]`, or one clause why they cannot be found.
    """
    height, width = layer.output_shape[1:]
    positions, channels = height * width, layer.output_shape[0]
    if positions > _MOST_POSITIONS or positions > channels:
        return f"{layer.name} has {positions} positions for {channels} channels; at most as many are solved for"
    moves = patches(layer).permute(1, 2, 0)  # [taps, outputs, inputs]
    center = next((tap for tap, move in enumerate(moves) if torch.equal(move, torch.eye(len(move)).to(move))), None)
    if center is None or len(moves) < 9:
        return f"the kernel of {layer.name} does not see every position with all of its neighbours"
    if not bool(cotangents.all()):
        return "the classifier gives some channels no derivative"
    taps = (weight_gradient.flatten(2) / cotangents.view(-1, 1, 1)).permute(2, 0, 1)  # [taps, O, I]
    left, singular, _ = torch.linalg.svd(taps.permute(1, 0, 2).flatten(1), full_matrices=False)
    rank = int((singular[:positions] > _NEGLIGIBLE * singular[0]).sum())
    masks = left[:, :rank] @ torch.linalg.pinv(_common_solution(left[:, :rank].T @ taps, moves, center))
    masks = masks / masks.flatten()[masks.abs().argmax()]
    binary, apart = (masks / masks[masks > 0.5].median() > 0.5).double(), torch.inf
    for _ in range(_ALTERNATIONS):
        binary, apart, before = *_alternated(binary, taps, moves), binary
        if torch.equal(binary, before):
            break
    # Compared in this direction so that NaN is refused.
    if not apart < _BINARY:
        return f"the masks behind {layer.name} (rank {rank}) came out {apart:.1g} away from 0 and 1: rounding or noise"
    return binary.bool().view(channels, height, width)


def _common_solution(taps: Tensor, moves: Tensor, center: int) -> Tensor:
    """H `[P, R]` of `S_w H Y_0 = H Y_w`, for taps Y `[taps, R, I]` and moves S `[taps, P, P]`, up to its scale."""
    size, rank, middle = len(moves[0]), taps.shape[1], taps[center]
    normal = torch.zeros((size, rank, size, rank), dtype=torch.float64)  # [row, column, row, column] of H
    rows = torch.arange(size)
    for tap, move in zip(taps, moves, strict=True):
        to, origin = move.nonzero(as_tuple=True)
        product = middle @ tap.T
        normal[origin, :, origin, :] += middle @ middle.T
        normal[rows, :, rows, :] += tap @ tap.T
        normal[origin, :, to, :] -= product
        normal[to, :, origin, :] -= product.T
    matrix = normal.view(size * rank, size * rank)
    # Just enough to be positive definite; inverse iteration is not disturbed by it.
    matrix.diagonal().add_(1e-15 * float(matrix.diagonal().mean()))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return torch.full((size, rank), torch.nan, dtype=torch.float64)
    vector = torch.eye(size, rank, dtype=torch.float64).view(-1, 1)
    for _ in range(_INVERSE_ITERATIONS):
        vector = torch.cholesky_solve(vector, factor)
        vector = vector / vector.norm()
    return vector.view(size, rank)


def _alternated(masks: Tensor, taps: Tensor, moves: Tensor) -> tuple[Tensor, float]:
    """The layer's input from masks `[O, P]`, then masks from that input: rounded, and how far they were from binary."""
    sums = torch.einsum("op,wpq->woq", masks, moves).flatten(0, 1)
    maps = torch.linalg.lstsq(sums, taps.flatten(0, 1), driver="gelsd").solution.clamp_min(0)
    windows = torch.einsum("wpq,qi->wip", moves, maps).flatten(0, 1)
    found = torch.linalg.lstsq(windows, taps.permute(0, 2, 1).flatten(0, 1), driver="gelsd").solution.T
    rounded = (found > 0.5).double()
    return rounded, float((found - rounded).abs().max())


def settled(values: Tensor, error: Tensor, cotangent: Tensor, sums: Tensor | None, rounding: float) -> Tensor | str:
    """Masks from estimated values, checked by what the bias gradient says about each channel.

    Args:
        values: estimated inputs of a layer, outputs of a ReLU, `[C, h, w]`.
        error: how far each may be off; far fewer are active below it than inactive.
        cotangent: derivative with respect to them, before the mask.
        sums: the sum of masked cotangents of each channel, `[C]`; None if unknown.
        rounding: relative rounding of the update's entries.

    Returns:
        Booleans `[C, h, w]`, or one clause why the masks are not certain.
    """
    active = values > error
    if sums is None:
        return active
    for channel, (mask, cotangents) in enumerate(zip(active, cotangent, strict=True)):
        tolerance = _ROUNDINGS * rounding * float(cotangents.abs().sum())
        missing = float(sums[channel] - cotangents[mask].sum())
        if abs(missing) <= tolerance:
            continue
        sizes = (values[channel] / error[channel].clamp_min(1e-300)).flatten()
        signs = torch.where(mask, -cotangents, cotangents).flatten()
        flipped = _completion(sizes, signs, missing, tolerance)
        if flipped is None:
            return "a channel's masks do not add up to the gradient of its bias"
        mask.view(-1)[flipped] ^= True
    return active


def _completion(sizes: Tensor, changes: Tensor, missing: float, tolerance: float) -> Tensor | None:
    """The likeliest set of units, near the threshold of being active, whose flips make up for what is missing.

    Args:
        sizes: estimated values in units of the threshold, `[n]`.
        changes: what flipping each unit adds to the sum, `[n]`.
        missing: from the sum.
        tolerance: of the sum.

    Returns:
        Places, or None if no set fits.
    """
    # An active unit is estimated as negative by a small part of the threshold at most.
    doubts = sizes.clamp_min(_SMALL).log().abs().masked_fill(sizes < -_NEGATIVE, torch.inf)
    single = doubts.masked_fill((changes - missing).abs() > tolerance, torch.inf)
    if float(single.min()) < _DOUBTFUL:
        return single.argmin().view(1)
    places = doubts.argsort()[:_MOST_OPEN]
    places = places[doubts[places] < _DOUBTFUL]
    subsets = ((torch.arange(2 ** len(places))[:, None] >> torch.arange(len(places))) & 1).to(changes)
    fits = (subsets @ changes[places] - missing).abs() <= tolerance
    if not bool(fits.any()):
        return None
    best = (subsets @ (1 + doubts[places])).masked_fill(~fits, torch.inf).argmin()
    return places[subsets[best].bool()]
