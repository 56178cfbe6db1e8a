"""Linear equations that tie the inputs of a convolution to its outputs and to the gradient of its weight.

With known outputs `z_n`, known cotangents `k_n = dL/dz_n` and the weight gradient G, the inputs `x_n` obey
`W * x_n = z_n` for each example, and `sum_n corr(k_n, x_n) = G`: linear equations that are solved as one weighted
least-squares problem. The second group couples no two input channels and has the same matrix for each, and of one
input map it couples only pixels that lie a multiple of the stride apart. `convolution_solver` builds on both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, fold, unfold


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

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the unknowns: `[N, I, H, W]`."""
        return (len(self.cotangents), self.weight.shape[1], *self.size)

    def outputs(self, x: Tensor) -> Tensor:
        """The convolution without bias, `[N, O, h, w]`."""
        return conv2d(x, self.weight, None, self.stride, self.padding, self.dilation)

    def adjoint_outputs(self, outputs: Tensor, weight: Tensor | None = None) -> Tensor:
        """The transpose of `outputs`, `[N, I, H, W]`, for this weight or another of the same kernel."""
        reached = [
            (outputs.shape[2 + axis] - 1) * self.stride[axis]
            - 2 * self.padding[axis]
            + self.dilation[axis] * (self.kernel[axis] - 1)
            for axis in (0, 1)
        ]
        left = [size - 1 - least for size, least in zip(self.size, reached, strict=True)]
        weight = self.weight if weight is None else weight
        return conv_transpose2d(outputs, weight, None, self.stride, self.padding, left, 1, self.dilation)

    def normal(self, x: Tensor) -> Tensor:
        """Product of the normal matrix with x `[N, I, H, W]`."""
        maps = self.cotangents.flatten(2)
        gradient = torch.sum(maps @ self._windows(x).transpose(1, 2), dim=0) * self.gradient_precision
        return self.outputs_normal(x) + self._adjoint_windows(gradient.T @ maps)

    def outputs_normal(self, x: Tensor) -> Tensor:
        """The part of that product which is due to the outputs."""
        return self.adjoint_outputs(self.outputs(x) * self.output_precision)

    def right_side(self, outputs: Tensor, gradient: Tensor) -> Tensor:
        """The normal equations' right-hand side.

        Args:
            outputs: z without the bias, `[N, O, h, w]`; finite also where the precision is zero.
            gradient: G, of the weight's shape.

        Returns:
            `[N, I, H, W]`.
        """
        scaled = gradient.flatten(1) * self.gradient_precision
        of_gradient = self._adjoint_windows(scaled.T @ self.cotangents.flatten(2))
        return self.adjoint_outputs(outputs * self.output_precision) + of_gradient

    def gradient_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The matrix of the gradient equations for one input channel, in blocks that share no pixel.

        Yields:
            For each residue of pixel positions modulo the stride: the pixels' places in a flattened map `[p]`, and the
            block `[rows, N, p]`.
        """
        count, outputs = self.cotangents.shape[:2]
        # Put each cotangent where each tap of the kernel sees it; the last place is for taps that see the padding.
        pixels = self.size[0] * self.size[1]
        seen = self.seen()
        spread = self.cotangents.new_zeros(count, outputs, len(seen), pixels + 1)
        maps = self.cotangents.flatten(2)[:, :, None].expand(-1, -1, len(seen), -1)
        spread.scatter_(3, seen.remainder(pixels + 1).expand_as(maps), maps)
        spread = spread[..., :-1].reshape(count, outputs, *self.kernel, *self.size)
        places = torch.arange(self.size[0] * self.size[1], device=self.weight.device).view(self.size)
        for top, left, taps_down, taps_across in self._residues():
            block = spread[:, :, taps_down][:, :, :, taps_across]
            block = block[..., top :: self.stride[0], left :: self.stride[1]]
            pixels = places[top :: self.stride[0], left :: self.stride[1]].reshape(-1)
            yield pixels, block.reshape(count, -1, len(pixels)).transpose(0, 1)

    def most_gradient_equations(self) -> int:
        """The rank of the gradient equations if only the blocks' shapes limited it, over all channels."""
        count, outputs, most = len(self.cotangents), self.weight.shape[0], 0
        for top, left, taps_down, taps_across in self._residues():
            pixels = -(-(self.size[0] - top) // self.stride[0]) * -(-(self.size[1] - left) // self.stride[1])
            most += min(outputs * len(taps_down) * len(taps_across), count * pixels)
        return self.weight.shape[1] * most

    def seen(self) -> Tensor:
        """Which pixel of a flattened map each tap of the kernel sees at each position, `[taps, h * w]`; -1 outside."""
        numbers = torch.arange(1, self.size[0] * self.size[1] + 1, dtype=torch.float64, device=self.weight.device)
        return self._windows(numbers.view(1, 1, *self.size))[0].long() - 1

    def _residues(self) -> Iterator[tuple[int, int, list[int], list[int]]]:
        """Residues of pixel positions modulo the stride, each with the taps that its pixels ever meet."""
        for top in range(min(self.stride[0], self.size[0])):
            for left in range(min(self.stride[1], self.size[1])):
                yield top, left, self._taps(0, top), self._taps(1, left)

    def _taps(self, axis: int, residue: int) -> list[int]:
        """The taps of the kernel along one axis that pixels of one residue modulo the stride ever meet."""
        return [
            tap
            for tap in range(self.kernel[axis])
            if (residue + self.padding[axis] - tap * self.dilation[axis]) % self.stride[axis] == 0
        ]

    def _windows(self, x: Tensor) -> Tensor:
        """What each output sees, `[N, I * kernel, h * w]`."""
        return unfold(x, self.kernel, self.dilation, self.padding, self.stride)

    def _adjoint_windows(self, windows: Tensor) -> Tensor:
        """The transpose of `_windows`, `[N, I, H, W]`."""
        return fold(windows, self.size, self.kernel, self.dilation, self.padding, self.stride)
