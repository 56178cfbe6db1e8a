"""What is left of a peeled batch below its front: equations on the pixels, weighed by what can be known of them.

Each group of equations, those of the front's outputs and those of each weight's gradient, is linear in the inputs u of
one layer, `B u = b`, or nearly so. Its misfit is `r^T (B B^T + D)^-1 r` with D the variance of b, both in units of the
spread of u: the square of how far u must move to obey it. So directions that a layer passes on weakly count as much as
those that it passes on strongly, down to the errors, and the search sees a far rounder bowl than in `|r|^2`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.closed_form.layers import Activation, Affine, Chain, Reshape
from gradleak.attacks.closed_form.peeling import Front
from gradleak.attacks.closed_form.pixels import below_front, carried, downward

# Largest group of coupled equations whose matrix is worth a factorization.
_LARGEST_MATRIX = 1300
# Share of the largest eigenvalue below which float32 resolves nothing.
_RIDGE = 1e-6
# Rounding of a gradient's entries adds up over examples and places.
_ROUNDING_FACTOR = 3.0


@dataclass(frozen=True, eq=False)
class PeeledObjective:
    """Mean square of the whitened equations below a front, about 1 at a grey image.

    Attributes:
        chain: the network in the search's precision.
        front: known values and cotangents of the input of `chain.layers[front.index]`.
        combinations: from misfits of examples to those of combinations with independent errors, for each entry of the
            front's values, `[N, N, D]`.
        gradient: weight gradients of the layers below, by name.
        metrics: for each weight, a factor F of its metric `F^T F` over outputs and places in the kernel, or the square
            root of its diagonal; the front's, for each combination, is called "".
        count: number of equations.
    """

    chain: Chain
    front: Front
    combinations: Tensor
    gradient: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]
    count: int

    def __call__(self, variable: Tensor) -> Tensor:
        """The misfit of images `[N, C, H, W]`, a scalar."""
        return torch.stack([square.sum() for square in self.squares(variable).values()]).sum() / self.count

    def squares(self, variable: Tensor) -> dict[str, Tensor]:
        """Whitened misfit of the front, called "" and one for each combination, and of each weight's gradient."""
        values, simulated = below_front(self.chain, self.front, variable)
        away = torch.einsum("ine,ne->ie", self.combinations, (values - self.front.values).flatten(1))
        squares = {"": _measured(self.metrics[""], away[:, :, None])}
        for name, observed in self.gradient.items():
            squares[name] = _measured(self.metrics[name], _rows(simulated[name] - observed)).sum()
        return squares


class Whitening:
    """Makes the objective below a front for the accuracy that a search has reached.

    Args:
        chain: the network.
        gradient: the update as the gradient of the loss whose cotangents `front` holds, by name.
        front: the deepest known layer input.
        grey: a candidate of medium quality that sets the units, `[N, C, H, W]`.
        precision: relative rounding of the update's entries.
        dtype: precision of the search.
    """

    def __init__(
        self,
        chain: Chain,
        gradient: Mapping[str, Tensor],
        front: Front,
        grey: Tensor,
        *,
        precision: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.chain, self.precision, self.dtype = chain, precision, dtype
        self.front, slopes, bends = _before_activation(chain, front)
        covariance = torch.diag(front.std.square()) if front.covariance is None else front.covariance
        variances, mixing = torch.linalg.eigh(covariance)
        # Errors are those of values after the activation; combinations are put back in units before it.
        common = (mixing.T.square() @ slopes.square()).sqrt().clamp(min=1e-12)
        self.combinations = mixing.T[:, :, None] * slopes[None] / common[:, None]
        # What the second order adds where examples trade large errors.
        curved = mixing.T.square() @ (covariance.diagonal()[:, None] * bends).square()
        self.noise = (variances.clamp(min=0)[:, None] + curved) / common.square()
        # Relative squared error of the cotangents: of each example, and of what all examples have in common.
        shaken = bends * self.front.cotangents.flatten(1)
        power = self.front.cotangents.square().sum().clamp(min=1e-300)
        own = shaken.square().sum(dim=1) / self.front.cotangents.flatten(1).square().sum(dim=1).clamp(min=1e-300)
        self.own_error = covariance.diagonal() * own
        self.common_error = float(torch.einsum("ne,nm,me->", shaken, covariance, shaken) / power)
        below = [layer for layer in chain.layers[: self.front.index] if isinstance(layer, Affine)]
        self.gradient = {layer.name: gradient[layer.name] for layer in below}
        sizes = {"": slopes.numel()} | {name: tensor.numel() for name, tensor in self.gradient.items()}
        self.units = dict.fromkeys(sizes, 1.0)
        with torch.no_grad():
            squares = self(grey, 0.0).squares(grey.to(dtype))
        # The median: values that are all error, past the range of an activation, say nothing about the unit.
        self.units = {
            name: max(float(square.median()), 1e-30) * square.numel() / sizes[name] for name, square in squares.items()
        }

    def __call__(self, images: Tensor, tightness: float) -> PeeledObjective:
        """The objective around images.

        Args:
            images: gradients are weighed by what they tell about these, `[N, C, H, W]`.
            tightness: inverse of the misfit that the search has reached; errors count as this many times their
                variance, since above the misfit they matter and below they do not.

        Returns:
            The objective, in the search's precision.
        """
        values = [self.chain.normalize(images.double())]
        for layer in self.chain.layers[: self.front.index]:
            values.append(layer(values[-1]))
        metrics = {"": self._metric("", self._front_matrix(), tightness * self.noise)}
        for index, differentiable in downward(self.chain, self.front, values):
            layer, cotangents = self.chain.layers[index], differentiable.detach()
            if isinstance(layer, Affine):
                noise = self._gradient_noise(layer.name, cotangents, values[index], layer)
                metrics[layer.name] = self._metric(layer.name, _gradient_matrix(layer, cotangents), tightness * noise)
        layers = tuple(
            replace(layer, weight=layer.weight.to(self.dtype), bias=layer.bias.to(self.dtype))
            if isinstance(layer, Affine)
            else layer
            for layer in self.chain.layers
        )
        known = self.front.values.to(self.dtype), self.front.cotangents.to(self.dtype)
        gradient = {name: tensor.to(self.dtype) for name, tensor in self.gradient.items()}
        return PeeledObjective(
            replace(self.chain, layers=layers),
            replace(self.front, values=known[0], cotangents=known[1]),
            self.combinations.to(self.dtype),
            gradient,
            metrics,
            known[0].numel() + sum(tensor.numel() for tensor in gradient.values()),
        )

    def _front_matrix(self) -> Tensor:
        """`B B^T` of the layer that makes the front's values; if another than a layer with a weight does, its scale."""
        layer = self.chain.layers[self.front.index - 1]
        size = self.front.values[0].numel()
        if not isinstance(layer, Affine) or size > _LARGEST_MATRIX:
            return torch.ones(size, dtype=torch.float64)
        if not layer.is_convolution:
            return layer.weight @ layer.weight.T
        unit = torch.eye(size, dtype=torch.float64).view(size, *layer.output_shape)
        seen = carried(layer, unit).flatten(1)
        return seen @ seen.T

    def _gradient_noise(self, name: str, cotangents: Tensor, inputs: Tensor, layer: Affine) -> Tensor:
        """Variance of the rows of a weight gradient, from errors of the cotangents and rounding."""
        power = cotangents.flatten(2).square().sum(dim=2) if layer.is_convolution else cotangents.square()
        mean = float(inputs.square().mean())
        varied = min(self.units[name], mean)
        rounding = (_ROUNDING_FACTOR * self.precision) ** 2 * float(self.gradient[name].square().mean())
        noise = power.T @ self.own_error * varied + power.sum(dim=0) * self.common_error * mean + rounding
        return noise.repeat_interleave(math.prod(layer.weight.shape[2:]))

    def _metric(self, name: str, matrix: Tensor, noise: Tensor) -> Tensor:
        """A factor of `(u B B^T + D)^-1`, u being the group's unit: of its Cholesky factor, or of its diagonal."""
        unit = self.units[name]
        ridge = _RIDGE * float(matrix.detach().max())
        if matrix.dim() == 1:
            return (unit * (matrix + ridge) + noise).rsqrt().to(self.dtype)
        inverse = unit * matrix + torch.diag_embed(noise + unit * ridge)
        factor, failed = torch.linalg.cholesky_ex(inverse)
        if bool(failed.any()):  # cotangents so uneven that rounding hides the smaller ones
            return inverse.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(inverse.dtype).tiny).rsqrt().to(self.dtype)
        identity = torch.eye(len(matrix), dtype=torch.float64).expand_as(factor)
        return torch.linalg.solve_triangular(factor, identity, upper=False).to(self.dtype)


def _measured(factor: Tensor, rows: Tensor) -> Tensor:
    """Squared norm of a factor times columns, or of a diagonal times columns, over the last two dimensions."""
    return (factor @ rows if factor.dim() >= rows.dim() else factor[..., None] * rows).square().sum(dim=(-2, -1))


def _rows(gradient: Tensor) -> Tensor:
    """A weight's gradient with outputs and places in the kernel as rows, and inputs as columns."""
    if gradient.dim() == 2:
        return gradient
    return gradient.flatten(2).transpose(1, 2).flatten(0, 1)


def _gradient_matrix(layer: Affine, cotangents: Tensor) -> Tensor:
    """`G G^T` of the map G from an input channel of all examples to rows of a weight gradient, or its diagonal."""
    if not layer.is_convolution:
        return cotangents.T @ cotangents
    outputs, _, height, width = layer.weight.shape
    taps = height * width
    if outputs * taps > _LARGEST_MATRIX:
        return cotangents.flatten(2).square().sum(dim=(0, 2)).repeat_interleave(taps)
    # Through this kernel an output sees each of its places as a channel of its own.
    places = replace(layer, weight=torch.eye(taps, dtype=cotangents.dtype).view(1, taps, height, width))
    maps = [carried(places, cotangents[:, output : output + 1]) for output in range(outputs)]
    rows = torch.cat([each.transpose(0, 1).flatten(1) for each in maps])
    return rows @ rows.T


def _before_activation(chain: Chain, front: Front) -> tuple[Front, Tensor, Tensor]:
    """Move a front before the activation that makes it, where the equations below are closer to linear.

    Returns:
        The front, the slope of the activation at each entry `[N, D]`, and the relative change of that slope for a
        change of the value after the activation.
    """
    if front.index and isinstance(chain.layers[front.index - 1], Reshape):
        shape = (len(front.values), *chain.shapes[front.index - 1])
        front = replace(
            front,
            index=front.index - 1,
            values=front.values.reshape(shape),
            cotangents=front.cotangents.reshape(shape),
        )
    layer = chain.layers[front.index - 1] if front.index else None
    ones = torch.ones_like(front.values).flatten(1)
    if not isinstance(layer, Activation) or layer.kind == "relu":
        return front, ones, torch.zeros_like(ones)
    low, high = layer.interval
    width = front.std.view(-1, *[1] * (front.values.dim() - 1)).clamp(min=1e-9, max=1e-2)
    inside = torch.clamp(front.values, low + 0.1 * width, high - 0.1 * width)
    slope = layer.slope(inside)
    up, down = (torch.clamp(inside + sign * width, low, high) for sign in (1, -1))
    bend = (layer.slope(up) - layer.slope(down)) / (2 * width * slope)
    moved = replace(front, index=front.index - 1, values=layer.inverse(inside), cotangents=front.cotangents * slope)
    return moved, slope.flatten(1), bend.flatten(1)
