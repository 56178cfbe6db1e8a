"""Gradients by the input of a convolution, in an order of pixels in which they cost little."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class ConvolutionAdjoint:
    """The map of gradients by a convolution's output to those by its input, as a convolution of stride 1.

    A convolution of stride s is one of stride 1 whose channels are the pixels of every s x s block. So is its adjoint,
    and on a processor that takes about a quarter of the time of the strided one. Norms do not depend on the order.

    Attributes:
        kernel: of the adjoint, `[C s^2, D, b, b]` with `b = ceil(k / s)`.
        padding: of the adjoint.
        inside: 1 for pixels of the image and 0 for those of its padding, `[C s^2, ...]`; None if all are of the image.
        stride: s.
        offset: row and column in the blocks' pixels at which the image begins.
    """

    kernel: Tensor
    padding: int
    inside: Tensor | None
    stride: int
    offset: int

    def blocks(self, slopes: Tensor) -> Tensor:
        """Gradients by the input, a channel for each pixel of a block, of those by the output `[N, D, H, W]`."""
        found = functional.conv2d(slopes, self.kernel, padding=self.padding)
        return found if self.inside is None else found * self.inside

    def image(self, slopes: Tensor, height: int, width: int) -> Tensor:
        """Gradients by the input, `[N, C, height, width]`."""
        whole = functional.pixel_shuffle(self.blocks(slopes), self.stride)
        whole = functional.pad(whole, (0, width, 0, height))  # the last rows may be beyond every window
        return whole[..., self.offset : self.offset + height, self.offset : self.offset + width]


def convolution_adjoint(layer: nn.Conv2d, weight: Tensor, height: int, width: int) -> ConvolutionAdjoint | None:
    """The adjoint of a convolution.

    Args:
        layer: the convolution.
        weight: in place of the layer's own, `[D, C, k, k]`.
        height: of what it receives, in pixels.
        width: likewise.

    Returns:
        The adjoint; None for groups, dilation, padding by anything but zeros, and sizes, strides or padding that are
        not the same in both directions.
    """
    padding, size, stride = layer.padding, layer.kernel_size[0], layer.stride[0]
    square = layer.kernel_size == (size, size) and layer.stride == (stride, stride)
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if isinstance(padding, str) or len(set(padding)) != 1 or not square or not plain:
        return None
    (offset, _), reach = padding, -(-size // stride)
    rest = reach * stride - size
    phases = functional.pixel_unshuffle(functional.pad(weight, (0, rest, 0, rest)), stride)
    rows, columns = ((side + 2 * offset - size) // stride + reach for side in (height, width))
    frame = weight.new_zeros(1, weight.shape[1], rows * stride, columns * stride)
    frame[..., offset : offset + height, offset : offset + width] = 1
    inside = functional.pixel_unshuffle(frame, stride)[0]
    # Blocks on all sides that are nothing but padding are not computed.
    margin = min(offset // stride, reach - 1)
    if margin and not inside[:, -margin:].any() and not inside[:, :, -margin:].any():
        inside = inside[:, margin:-margin, margin:-margin]
    else:
        margin = 0
    return ConvolutionAdjoint(
        phases.transpose(0, 1).flip(2, 3).contiguous(memory_format=torch.channels_last),
        reach - 1 - margin,
        None if bool(inside.all()) else inside,
        stride,
        offset - margin * stride,
    )
