"""Exact peeling of a stack of convolutions with ReLU, from the classifier down, for a single example.

The residual `r = dL/d outputs` is the classifier's bias gradient and the features are `dW^T r / ||r||^2`. From there,
layer by layer: the output `a` of a ReLU and the derivative `k` with respect to its input being known, the layer's own
input `x` obeys two sets of linear equations,

    W x + b = a at active units,        K(k) x_c = dW_c for every input channel c,

with one small matrix `K(k)` `[O h w, pixels]` shared by all input channels. Its singular directions give almost all
of `x`, channel by channel, and the forward equations what is left.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.attacks.closed_form.layers import Activation, Affine, Chain, Reshape

# Work that one layer may cost: entries of its dense forward matrix, and unknowns left to the forward equations.
_LARGEST_MATRIX = 20_000_000
_MOST_LEFT_OVER = 2_048
# Entries whose null-space leverage is below this are determined.
_DETERMINED = 1e-10
# Misfit of the two sets of equations, relative to their right side, above which a layer is not believed.
_BELIEVED = 1e-3
# Share of a layer's inputs that must be determined for the masks below it to be taken as known.
_ENOUGH = 0.9


@dataclass(frozen=True, eq=False)
class Stack:
    """Convolutions, each followed by ReLU, under one linear classifier.

    Attributes:
        convolutions: from the image up.
        head: the classifier.
    """

    convolutions: tuple[Affine, ...]
    head: Affine


@dataclass(frozen=True, eq=False)
class LayerInput:
    """What the equations of one layer say about its input.

    Attributes:
        values: least-squares input `[n]`, of least norm where it is open.
        error: six standard errors of each entry, `[n]`.
        open: orthonormal rows `[q, n]` of the directions that the equations say nothing about.
        misfit: of all equations, relative to their right side.
    """

    values: Tensor
    error: Tensor
    open: Tensor
    misfit: float

    @property
    def determined(self) -> Tensor:
        """Entries that no open direction moves, `[n]`."""
        return self.open.square().sum(dim=0) < _DETERMINED

    def closed_part(self, difference: Tensor) -> Tensor:
        """The part of `[n]` that the equations speak about."""
        return difference - (self.open @ difference) @ self.open


@dataclass(frozen=True, eq=False)
class Front:
    """What is known about the output of one convolution of a stack.

    Attributes:
        position: of that convolution in the stack.
        values: after ReLU, `[O, h, w]`, float64.
        active: units above zero.
        sure: units whose value, and whether they are active, is determined.
        cotangent: derivative of the loss with respect to the output before ReLU, `[O, h, w]`.
        account: one clause for each layer tried: unknowns, and how many the equations determine.
        below: what is known about this convolution's input, where that was not enough to go on.
    """

    position: int
    values: Tensor
    active: Tensor
    sure: Tensor
    cotangent: Tensor
    account: tuple[str, ...]
    below: LayerInput | None = None


def read_stack(chain: Chain) -> Stack | str:
    """The stack that a chain of layers is, or one clause that says why it is none."""
    layers = [layer for layer in chain.layers if not isinstance(layer, Reshape)]
    *below, head = layers
    if not isinstance(head, Affine) or head.is_convolution or head.bias_name is None:
        return "the outputs do not come from a linear layer with a trained bias"
    convolutions, activations = below[::2], below[1::2]
    if not below or len(convolutions) != len(activations):
        return "convolutions and activations do not alternate"
    found: list[Affine] = []
    for convolution, activation in zip(convolutions, activations, strict=True):
        if not isinstance(convolution, Affine) or not convolution.is_convolution:
            return "a layer below the classifier is no convolution"
        if not isinstance(activation, Activation) or activation.kind != "relu":
            return "an activation is not ReLU"
        found.append(convolution)
    return Stack(tuple(found), head)


def patches(layer: Affine) -> Tensor:
    """What each pixel of one input channel adds to each window: `[pixels, window, outputs]`, zeros and ones."""
    height, width = layer.input_shape[1:]
    unit = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    return functional.unfold(unit, layer.weight.shape[2:], layer.dilation, layer.padding, layer.stride)


def weight_gradient_matrix(layer: Affine, cotangent: Tensor) -> Tensor:
    """`K(k)` `[O * window, pixels]`: the weight gradient's part of one input channel is `K(k) x_c`."""
    products = torch.einsum("pwl,ol->owp", patches(layer), cotangent.flatten(1))
    return products.flatten(0, 1)


def forward_matrix(layer: Affine) -> Tensor:
    """`A` `[O * outputs, I * pixels]`: the layer's output is `A x + b`."""
    images = torch.einsum("oiw,pwl->olip", layer.weight.flatten(2), patches(layer))
    return images.flatten(0, 1).flatten(1)


def transposed(layer: Affine, cotangent: Tensor, weight: Tensor | None = None) -> Tensor:
    """`A^T k`, the derivative with respect to the layer's input, `[I, H, W]`; another weight may stand in."""
    folded = functional.fold(
        (layer.weight if weight is None else weight).flatten(1).T @ cotangent.flatten(1),
        layer.input_shape[1:],
        layer.weight.shape[2:],
        layer.dilation,
        layer.padding,
        layer.stride,
    )
    return folded.view(layer.input_shape)


def peel_stack(stack: Stack, gradient: dict[str, Tensor], rounding: float) -> Front | str:
    """Peel from the classifier down, as far as the equations determine a layer's input.

    Args:
        stack: the network.
        gradient: the update of one example in gradient direction, by name, float64.
        rounding: relative rounding of the update's entries, for instance 1.2e-7 for float32.

    Returns:
        The lowest layer whose output is known, or one clause why not even the features are.
    """
    head, last = stack.head, stack.convolutions[-1]
    assert head.bias_name is not None
    residual, rows = gradient[head.bias_name], gradient[head.name]
    if not bool(residual.any()):
        return f"every entry of {head.bias_name} is zero: the example leaves no residual"
    features = rows.T @ residual / residual.square().sum()
    misfit = float((rows - torch.outer(residual, features)).norm() / rows.norm().clamp_min(1e-300))
    if misfit > _BELIEVED:
        return f"the gradient of {head.name} is {misfit:.0e} of its norm away from rank 1, which one example leaves"
    values = features.view(last.output_shape)
    active = values > 10 * max(rounding, misfit) * values.abs().max()
    cotangent = (residual @ head.weight).view(last.output_shape) * active
    front = Front(len(stack.convolutions) - 1, values * active, active, torch.ones_like(active), cotangent, ())
    while front.position > 0:
        layer = stack.convolutions[front.position]
        found = _solve(layer, front, gradient[layer.name], rounding)
        account = found if isinstance(found, str) else _account(layer, found)
        front = replace(front, account=(*front.account, account))
        if isinstance(found, str):
            return front
        if float(found.determined.double().mean()) < _ENOUGH:
            return replace(front, below=found)
        front = _through(layer, front, found)
    return front


def _account(layer: Affine, found: LayerInput) -> str:
    """One clause for people."""
    closed = found.values.numel() - len(found.open)
    return f"{layer.name} {int(found.determined.sum())} of {found.values.numel()} inputs determined (rank {closed})"


def _through(layer: Affine, front: Front, found: LayerInput) -> Front:
    """One layer further down."""
    values, error, shape = found.values, found.error, layer.input_shape
    active = values > error
    sure = found.determined & ((values > 3 * error) | (values < error / 3))
    cotangent = transposed(layer, front.cotangent) * active.view(shape)
    return Front(
        front.position - 1,
        (values * active).view(shape),
        active.view(shape),
        sure.view(shape),
        cotangent,
        front.account,
    )


def _solve(layer: Affine, front: Front, weight_gradient: Tensor, rounding: float) -> LayerInput | str:
    """Least squares over the two sets of equations, or why that tells nothing."""
    if math.prod(layer.output_shape) * math.prod(layer.input_shape) > _LARGEST_MATRIX:
        return f"{layer.name} was too large to peel"
    channels, tolerance = layer.input_shape[0], math.sqrt(rounding) / 4
    matrix = weight_gradient_matrix(layer, front.cotangent)
    observed = weight_gradient.transpose(0, 1).flatten(1)  # [I, O * window]
    left, singular, right = torch.linalg.svd(matrix, full_matrices=True)
    rank = int((singular > tolerance * singular[0]).sum())
    free = right[rank:]
    if channels * len(free) > _MOST_LEFT_OVER:
        return f"{layer.name} leaves {channels * len(free)} of its inputs to the forward equations"
    by_singular = right[:rank] / singular[:rank, None]
    values = (observed @ left[:, :rank] @ by_singular).flatten()
    missed = values.view(channels, -1) @ matrix.T - observed
    gradient_misfit = float(missed.norm() / observed.norm().clamp_min(1e-300))
    # Sums of rounded products carry a few roundings; what the equations miss each other by tells how many.
    rounding = 3 * max(rounding, gradient_misfit)
    noise = rounding * float(observed.square().mean().sqrt())
    variance = noise**2 * by_singular.square().sum(dim=0).repeat(channels)
    active = front.active.flatten()
    forward = forward_matrix(layer)[active]
    target = (front.values - layer.bias.view(-1, 1, 1)).flatten()[active]
    unseen = values.new_zeros((0, values.numel()))
    if len(free):
        images = torch.einsum("aip,fp->aif", forward.view(len(forward), channels, -1), free).flatten(1)
        left, singular, right = torch.linalg.svd(images, full_matrices=True)
        rank = int((singular > tolerance * singular[0]).sum()) if len(singular) else 0
        modes = (right.reshape(-1, channels, len(free)) @ free).flatten(1)  # [I * free, I * pixels]
        by_singular = modes[:rank] / singular[:rank, None]
        noise = float((forward.square() @ variance).mean().sqrt()) + rounding * float(target.square().mean().sqrt())
        values = values + (target - forward @ values) @ left[:, :rank] @ by_singular
        variance = variance + noise**2 * by_singular.square().sum(dim=0)
        unseen = modes[rank:]
    forward_misfit = float((forward @ values - target).norm() / target.norm().clamp_min(1e-300))
    found = LayerInput(
        values,
        6 * (variance.sqrt() + (rounding + unseen.square().sum(dim=0).sqrt()) * values.abs().max()),
        unseen,
        max(forward_misfit, gradient_misfit),
    )
    if found.misfit > _BELIEVED:
        return f"{layer.name} fits its equations only to {found.misfit:.0e}: rounding or noise"
    if bool((values < -3 * found.error)[found.determined].any()):
        return f"{layer.name} gave negative values under ReLU: rounding or noise"
    return found
