"""Solve the equations on the inputs of a convolution, by approximate inverses that know their structure.

The normal matrix is `G + W^T D W` with the gradient equations in G and the outputs, weighted by their precision D, in
the rest. G is block diagonal with the same small blocks for every channel, so `H = (G + R)^-1` with a diagonal R is
cheap. Two inverses are made of it:

- where the outputs are many, R stands for all of `W^T D W`, with the same diagonal up to a factor;
- where they are few, R is small and the outputs follow exactly, by `H - H W^T (D^-1 + W H W^T)^-1 W H` (Woodbury).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from gradleak.linalg.conjugate_gradients import Operator, corrected
from gradleak.linalg.convolution_equations import ConvolutionEquations

# Largest number of pixels that one block couples; beyond, it would cost more than it saves.
_LARGEST_BLOCK = 2048
# What stands for the output equations, as a share of their diagonal. Their eigenvalues spread around it; measured on
# convolutions with 5x5 kernels, 0.03 to 0.3 take about the same number of steps.
_RIDGE_SHARE = 0.1
# Where they follow exactly, the diagonal only keeps G invertible: 1e-3 takes twice the steps, 1e-6 drowns in rounding.
_SMALL_SHARE = 1e-4
# Pixels that few outputs see count as if they were seen by this share of the mean.
_LEAST_SEEN = 0.1
# Most output equations that are worth a dense factorization.
_LARGEST_CAPACITANCE = 1024
_LARGEST_TABLE = 2**24
_PROBES = 2


@dataclass(frozen=True, eq=False)
class ConvolutionSolution:
    """Inputs of a convolution.

    Attributes:
        x: `[N, I, H, W]`.
        variance: estimate of an unknown's mean variance, for each example `[N]`.
        steps: of conjugate gradients.
    """

    x: Tensor
    variance: Tensor
    steps: int


def solve_convolution(
    equations: ConvolutionEquations,
    right_side: Tensor,
    *,
    share: float,
    max_steps: int,
    deadline: float = math.inf,
) -> ConvolutionSolution:
    """Solve the normal equations by preconditioned conjugate gradients.

    Args:
        equations: what ties the unknowns.
        right_side: of the normal equations, `[N, I, H, W]`.
        share: remaining error of the solve as a share of the statistical one, in energy as the inverse measures it.
        max_steps: of conjugate gradients.
        deadline: reading of `time.perf_counter` after which it stops.

    Returns:
        The solution; after `max_steps` or the deadline it may be rough.
    """
    inverse, variance = _inverse(equations)

    def correction(residual: Tensor) -> tuple[Tensor, Tensor]:
        step = inverse(residual)
        if isinstance(inverse, GradientInverse):
            # (G + R) step = residual: the product with G is known without computing it.
            return step, equations.outputs_normal(step).add_(residual).sub_(inverse.ridge * step)
        return step, equations.normal(step)

    found = corrected(correction, right_side, energy=share * right_side.numel(), max_steps=max_steps, deadline=deadline)
    return ConvolutionSolution(found.x, variance, found.steps)


def _inverse(equations: ConvolutionEquations) -> tuple[Operator, Tensor]:
    """The best approximate inverse that is affordable, and for each example the mean of its diagonal `[N]`."""
    outputs = OutputsInverse.of(equations)
    if outputs is not None:
        return outputs, outputs.variance()
    gradient = GradientInverse.of(equations, _RIDGE_SHARE)
    if gradient is not None:
        return gradient, gradient.variance
    scale = _mean_inverse(equations)
    return (lambda residual: residual * scale.view(-1, 1, 1, 1)), scale


def _mean_inverse(equations: ConvolutionEquations) -> Tensor:
    """One over the mean diagonal of the normal matrix, about, for each example `[N]`."""
    ridge = _RIDGE_SHARE * output_diagonal(equations).mean(dim=(1, 2, 3))
    gradient = equations.gradient_precision * equations.cotangents.square().sum() / len(equations.cotangents)
    return 1.0 / torch.maximum(ridge, gradient).clamp(min=1e-300)


def output_diagonal(equations: ConvolutionEquations) -> Tensor:
    """The diagonal of `W^T D W`, averaged over channels, `[N, 1, H, W]`."""
    squares = equations.weight.square().mean(dim=1, keepdim=True)
    return equations.adjoint_outputs(equations.output_precision, squares)


@dataclass(frozen=True, eq=False)
class GradientInverse:
    """`(G + R)^-1` with one number of R for each pixel.

    Attributes:
        ridge: R, `[N, 1, H, W]`.
        blocks: inverses `[blocks, M, M]`, smaller ones filled up with zeros; the same for each channel.
        gather: place of each entry `[blocks, I, M]` in `[N, I, H, W]`, flat; zero where it is filled up.
        scatter: place of each entry `[N, I, H, W]` in `[blocks, I, M]`, flat.
        places: which block a pixel belongs to and where there, `[2, N, H * W]`.
    """

    ridge: Tensor
    blocks: Tensor
    gather: Tensor
    scatter: Tensor
    places: Tensor

    @staticmethod
    def of(equations: ConvolutionEquations, share: float) -> "GradientInverse | None":
        """Factor; None where a block is too large or the outputs say nothing.

        Args:
            equations: what ties the unknowns.
            share: R, in terms of the diagonal of `W^T D W`.

        Returns:
            The inverse.
        """
        count, channels, *size = equations.shape
        pixels = size[0] * size[1]
        ridge = output_diagonal(equations)
        # Of each example by itself: one that is known roughly must not set the scale of the others.
        mean = ridge.mean(dim=(1, 2, 3), keepdim=True)
        if float(mean.min()) <= 0 or count * -(-pixels // (equations.stride[0] * equations.stride[1])) > _LARGEST_BLOCK:
            return None
        ridge = share * torch.maximum(ridge, _LEAST_SEEN * mean)
        groups, inverses = [], []
        for group, block in equations.gradient_blocks():
            matrix = block.flatten(1)
            normal = equations.gradient_precision * (matrix.T @ matrix)
            normal.diagonal().add_(ridge.flatten(1)[:, group].flatten())
            inverses.append(torch.cholesky_inverse(torch.linalg.cholesky(normal)))
            groups.append(group)
        most = max(len(inverse) for inverse in inverses)
        blocks = torch.stack([pad(inverse, (0, most - len(inverse)) * 2) for inverse in inverses])
        gather = torch.zeros(len(groups), channels, most, dtype=torch.long, device=ridge.device)
        places = torch.zeros(2, count, pixels, dtype=torch.long, device=ridge.device)
        flat = torch.arange(count * channels * pixels, device=ridge.device).view(count, channels, pixels)
        scatter = torch.empty(count * channels * pixels, dtype=torch.long, device=ridge.device)
        for number, group in enumerate(groups):
            entries = flat[:, :, group].transpose(0, 1).flatten(1)
            inside = torch.arange(entries.shape[1], device=ridge.device)
            gather[number, :, : entries.shape[1]] = entries
            scatter[entries] = (number * channels + torch.arange(channels, device=ridge.device))[
                :, None
            ] * most + inside
            places[0, :, group] = number
            places[1, :, group] = inside.view(count, -1)
        return GradientInverse(ridge, blocks, gather.flatten(), scatter, places)

    def __call__(self, residual: Tensor) -> Tensor:
        """Product with `[N, I, H, W]`."""
        number, size, _ = self.blocks.shape
        rows = residual.reshape(-1).index_select(0, self.gather).view(number, -1, size)
        return (rows @ self.blocks).view(-1).index_select(0, self.scatter).view(residual.shape)

    @property
    def variance(self) -> Tensor:
        """The mean of the inverse's diagonal, for each example `[N]`."""
        return self.blocks.diagonal(dim1=1, dim2=2)[self.places[0], self.places[1]].mean(dim=1)


@dataclass(frozen=True, eq=False)
class OutputsInverse:
    """Inverse of the normal matrix with a small R added, for few outputs.

    Attributes:
        equations: what ties the unknowns.
        gradient: `(G + R)^-1`.
        used: places of the outputs with a precision, in `[N, O, h, w]`, flat.
        factor: Cholesky factor of `S = D^-1 + W H W^T` over them, scaled to a diagonal of ones.
        scale: `diag(S)^(-1/2)`.
    """

    equations: ConvolutionEquations
    gradient: GradientInverse
    used: Tensor
    factor: Tensor
    scale: Tensor

    @staticmethod
    def of(equations: ConvolutionEquations) -> "OutputsInverse | None":
        """Factor; None where the outputs are too many or rounding spoils the factorization."""
        precision = equations.output_precision.flatten()
        used = precision.nonzero()[:, 0]
        positions = equations.output_precision[:, 0].numel()
        table = (equations.kernel[0] * equations.kernel[1] * positions) ** 2
        if not 0 < len(used) <= min(_LARGEST_CAPACITANCE, math.prod(equations.shape) // 2) or table > _LARGEST_TABLE:
            return None
        gradient = GradientInverse.of(equations, _SMALL_SHARE)
        if gradient is None:
            return None
        matrix = _of_outputs(equations, gradient)[used][:, used]
        matrix.diagonal().add_(precision[used].reciprocal())
        scale = matrix.diagonal().rsqrt()
        factor, failed = torch.linalg.cholesky_ex(scale[:, None] * matrix * scale)
        return None if bool(failed) else OutputsInverse(equations, gradient, used, factor, scale)

    def __call__(self, residual: Tensor) -> Tensor:
        """Product with `[N, I, H, W]`."""
        step = self.gradient(residual)
        outputs = self.equations.outputs(step)
        known = (outputs.view(-1)[self.used] * self.scale)[:, None]
        solved = torch.cholesky_solve(known, self.factor)[:, 0] * self.scale
        spread = torch.zeros_like(outputs).view(-1).index_copy_(0, self.used, solved).view(outputs.shape)
        return step - self.gradient(self.equations.adjoint_outputs(spread))

    def variance(self) -> Tensor:
        """The mean of the inverse's diagonal for each example `[N]`, by random signs (Hutchinson 1990)."""
        generator = torch.Generator().manual_seed(0)
        totals: list[Tensor] = []
        for _ in range(_PROBES):
            signs = torch.randint(0, 2, self.equations.shape, generator=generator).to(self.scale) * 2 - 1
            totals.append((signs * self(signs)).mean(dim=(1, 2, 3)))
        found = torch.stack(totals).mean(dim=0)
        # One example's share of a positive form may come out negative.
        return torch.maximum(found, _LEAST_SEEN * found.mean())


def _of_outputs(equations: ConvolutionEquations, gradient: GradientInverse) -> Tensor:
    """`W H W^T` `[outputs, outputs]`: sums over pairs of taps of products of weights, times H between their pixels."""
    count, outputs = equations.cotangents.shape[:2]
    seen = equations.seen()
    weight = equations.weight.flatten(2)
    positions = count * seen.shape[1]
    products, kernels = [], []
    # A place for pixels outside the image and of other blocks, where H is zero.
    nowhere = gradient.blocks.shape[1]
    for number, block in enumerate(gradient.blocks):
        inside = torch.where(gradient.places[0] == number, gradient.places[1], nowhere)
        inside = pad(inside, (0, 1), value=nowhere)[:, seen].transpose(0, 1).flatten(1)
        taps = (inside < nowhere).any(dim=1).nonzero()[:, 0]
        table = pad(block, (0, 1, 0, 1))[inside[taps].flatten()][:, inside[taps].flatten()]
        table = table.view(len(taps), positions, len(taps), positions).transpose(1, 2)
        kernels.append(table.reshape(-1, positions * positions))
        tapped = weight[:, :, taps]
        products.append(torch.einsum("ait,biu->abtu", tapped, tapped).reshape(outputs * outputs, -1))
    matrix = torch.cat(products, dim=1) @ torch.cat(kernels)
    # From [O, O, N, P, N, P] to [N, O, P, N, O, P].
    matrix = matrix.view(outputs, outputs, count, -1, count, seen.shape[1]).permute(2, 0, 3, 4, 1, 5)
    return matrix.reshape(positions * outputs, positions * outputs)
