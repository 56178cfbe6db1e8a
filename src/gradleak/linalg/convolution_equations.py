"""Linear equations that tie the inputs of a convolution to its outputs and to the gradient of its weight.

With known outputs `z_n`, known cotangents `k_n = dL/dz_n` and the weight gradient G, the inputs `x_n` obey
`W * x_n = z_n` for each example, and `sum_n corr(k_n, x_n) = G`: linear equations that are solved as one weighted
least-squares problem. The second group couples no two input channels and has the same matrix for each, and of one
input map it couples only pixels that lie a multiple of the stride apart. Both make a good preconditioner.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import fold, unfold

from gradleak.linalg.conjugate_gradients import Operator

# Largest number of pixels that one block of the preconditioner couples; beyond, it would cost more than it saves.
_LARGEST_BLOCK = 2048
# What stands for the output equations in the preconditioner, as a share of their mean diagonal. Their eigenvalues
# spread around it; measured on convolutions with 5x5 kernels, 0.03 to 0.3 takes the fewest steps.
_RIDGE_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class ConvolutionEquations:
    """The equations on the inputs `[N, I, H, W]` of one convolution without groups.

    Attributes:
        weight: `[O, I, kernel height, kernel width]`.
        cotangents: k, `[N, O, h, w]`.
        output_precision: inverse variance of each known output `[N, O, h, w]`; zero leaves the equation out.
        gradient_precision: inverse variance of an entry of the weight gradient.
        size: height and width of the inputs.
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
    """

    weight: Tensor
    cotangents: Tensor
    output_precision: Tensor
    gradient_precision: float
    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return (self.weight.shape[2], self.weight.shape[3])

    def windows(self, x: Tensor) -> Tensor:
        """What each output sees, `[N, I * kernel, h * w]`."""
        return unfold(x, self.kernel, self.dilation, self.padding, self.stride)

    def adjoint_windows(self, windows: Tensor) -> Tensor:
        """The transpose of `windows`, `[N, I, H, W]`."""
        return fold(windows, self.size, self.kernel, self.dilation, self.padding, self.stride)

    def normal(self, x: Tensor) -> Tensor:
        """Product of the normal matrix with x `[N, I, H, W]`."""
        rows, maps = self._rows(), self.cotangents.flatten(2)
        windows = self.windows(x)
        outputs = (rows @ windows) * self.output_precision.flatten(2)
        gradient = torch.sum(maps @ windows.transpose(1, 2), dim=0) * self.gradient_precision
        return self.adjoint_windows(rows.T @ outputs + gradient.T @ maps)

    def right_side(self, outputs: Tensor, gradient: Tensor) -> Tensor:
        """The normal equations' right-hand side.

        Args:
            outputs: z without the bias, `[N, O, h, w]`; finite also where the precision is zero.
            gradient: G, of the weight's shape.

        Returns:
            `[N, I, H, W]`.
        """
        weighted = (outputs * self.output_precision).flatten(2)
        scaled = gradient.flatten(1) * self.gradient_precision
        return self.adjoint_windows(self._rows().T @ weighted + scaled.T @ self.cotangents.flatten(2))

    def gradient_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The matrix of the gradient equations for one input channel, in blocks that share no pixel.

        Yields:
            For each residue of pixel positions modulo the stride: the pixels' places in a flattened map `[p]`, and the
            block `[rows, N, p]`.
        """
        count, outputs = self.cotangents.shape[:2]
        taps = self.kernel[0] * self.kernel[1]
        unit = torch.eye(taps, dtype=self.weight.dtype, device=self.weight.device)
        # Put each cotangent where each tap of the kernel sees it.
        maps = self.cotangents.reshape(count * outputs, 1, 1, -1) * unit[None, :, :, None]
        spread = fold(maps.flatten(0, 1), self.size, self.kernel, self.dilation, self.padding, self.stride)
        spread = spread.view(count, outputs, *self.kernel, *self.size)
        places = torch.arange(self.size[0] * self.size[1], device=self.weight.device).view(self.size)
        for top in range(min(self.stride[0], self.size[0])):
            for left in range(min(self.stride[1], self.size[1])):
                taps_down, taps_across = self._taps(0, top), self._taps(1, left)
                block = spread[:, :, taps_down][:, :, :, taps_across]
                block = block[..., top :: self.stride[0], left :: self.stride[1]]
                pixels = places[top :: self.stride[0], left :: self.stride[1]].reshape(-1)
                yield pixels, block.reshape(count, -1, len(pixels)).transpose(0, 1)

    def preconditioner(self) -> tuple[Operator, Tensor]:
        """An approximate inverse of the normal matrix: gradient equations exact, output equations as their mean.

        Returns:
            The operator, and for each example the mean of its diagonal, which estimates the variance of an unknown
            `[N]`.
        """
        count, unknowns = len(self.cotangents), self.size[0] * self.size[1]
        energy = self.output_precision.sum(dim=(2, 3)) @ self.weight.square().sum(dim=(1, 2, 3))
        ridge = _RIDGE_SHARE * energy / (self.weight.shape[1] * unknowns)
        if float(ridge.min()) <= 0 or count * -(-unknowns // (self.stride[0] * self.stride[1])) > _LARGEST_BLOCK:
            of_gradient = self.gradient_precision * self.cotangents.square().sum() / count
            scale = 1.0 / torch.maximum(ridge, of_gradient).clamp(min=1e-300)
            return (lambda residual: residual * scale.view(-1, 1, 1, 1)), scale
        places: list[Tensor] = []
        inverses: list[Tensor] = []
        for pixels, block in self.gradient_blocks():
            matrix = block.flatten(1)
            normal = self.gradient_precision * (matrix.T @ matrix)
            normal.diagonal().add_(ridge.repeat_interleave(len(pixels)))
            inverses.append(torch.cholesky_inverse(torch.linalg.cholesky(normal)))
            places.append(pixels)
        traces = torch.stack([inverse.diagonal().view(count, -1).sum(dim=1) for inverse in inverses])
        return self._block_diagonal(places, inverses), traces.sum(dim=0) / unknowns

    def _block_diagonal(self, places: list[Tensor], inverses: list[Tensor]) -> Operator:
        """Multiply each group of pixels with its matrix, the same for all channels."""
        order = torch.cat(places)
        back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        sizes = [len(pixels) for pixels in places]
        # Half the memory traffic; any fixed positive definite matrix will do.
        light = [inverse.float() for inverse in inverses]

        def apply(residual: Tensor) -> Tensor:
            count, channels = residual.shape[:2]
            rows = residual.flatten(2)
            # Scaled first: in float32 a converged residual would fall below the smallest number.
            scale = rows.abs().max().clamp(min=torch.finfo(rows.dtype).tiny)
            groups = (rows / scale).float()[:, :, order].transpose(0, 1).split(sizes, dim=2)
            parts = [
                (group.reshape(channels, -1) @ inverse).view(channels, count, -1)
                for group, inverse in zip(groups, light, strict=True)
            ]
            joined = torch.cat(parts, dim=2)[:, :, back].transpose(0, 1)
            return (joined.to(residual.dtype) * scale).reshape(residual.shape)

        return apply

    def _rows(self) -> Tensor:
        return self.weight.flatten(1)

    def _taps(self, axis: int, residue: int) -> list[int]:
        """The taps of the kernel that pixels of one residue modulo the stride ever meet."""
        return [
            tap
            for tap in range(self.kernel[axis])
            if (residue + self.padding[axis] - tap * self.dilation[axis]) % self.stride[axis] == 0
        ]
