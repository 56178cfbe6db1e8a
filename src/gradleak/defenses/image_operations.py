"""The operations of augmentation policies on images in [0, 1], each with its strength, in plain differentiable torch.

They follow those of AutoAugment as the released code of Gao et al. (CVPR 2021) does them with Pillow, with two
differences: values are not rounded to 256 levels, and the affine ones interpolate bilinearly (the released shears are
bicubic, translations and rotations nearest). Where an operation leaves the image, it fills with black, rotations with
grey. Steps of posterize, solarize and equalize have the derivative of what they leave continuous.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample

_LEVELS = 10
# Largest strength, at magnitude 9; magnitude 0 is none.
_LARGEST = {
    "shearX": 0.3,
    "shearY": 0.3,
    "translateX": 150 / 331,
    "translateY": 150 / 331,
    "rotate": 30.0,
    "color": 0.5,
    "contrast": 0.5,
    "sharpness": 0.5,
    "brightness": 0.5,
}
_GREY_FILL = 128 / 255
# Weights of red, green and blue in brightness (ITU-R 601), as Pillow converts to grey.
_LUMA = (0.299, 0.587, 0.114)
SIGNED = frozenset({"shearX", "shearY", "translateX", "translateY", "color", "contrast", "sharpness", "brightness"})
"""Operations whose direction is drawn at random for each image."""


def strength(operation: str, magnitude: int) -> float:
    """What a magnitude means for an operation.

    Args:
        operation: its name.
        magnitude: 0 to 9.

    Returns:
        A shear, a share of the side, degrees, a change of a factor, bits that are kept, or a threshold in [0, 1].
    """
    if operation == "posterize":
        return float(round(8 - 4 * magnitude / (_LEVELS - 1)))
    if operation == "solarize":
        return 256 / 255 * (1 - magnitude / (_LEVELS - 1))
    return _LARGEST.get(operation, 0.0) * magnitude / (_LEVELS - 1)


def operate(operation: str, amount: float, images: Tensor) -> Tensor:
    """Apply one operation to all images alike.

    Args:
        operation: one of `OPERATIONS`.
        amount: see `strength`, with the sign drawn.
        images: `[N, C, H, W]` in [0, 1].

    Returns:
        Of the same shape, in [0, 1].
    """
    return OPERATIONS[operation](images, amount)


def _affine(images: Tensor, rows: tuple[tuple[float, float, float], tuple[float, float, float]], fill: float) -> Tensor:
    """Each output pixel (x, y) shows the input at `rows @ (x, y, 1)`, in pixels, the origin at the image's corner."""
    height, width = images.shape[-2:]
    (a, b, c), (d, e, f) = rows
    # To coordinates from -1 to 1: x = (u + 1) width / 2.
    across = (a, b * height / width, a + b * height / width - 1 + 2 * c / width)
    down = (d * width / height, e, e + d * width / height - 1 + 2 * f / height)
    matrix = torch.tensor([across, down], dtype=images.dtype, device=images.device)
    grid = affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return fill + grid_sample(images - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _rotate(images: Tensor, degrees: float) -> Tensor:
    height, width = images.shape[-2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    first = (cosine, -sine, x - cosine * x + sine * y)
    return _affine(images, (first, (sine, cosine, y - sine * x - cosine * y)), _GREY_FILL)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (weights * images).sum(dim=1, keepdim=True)


def _blend(base: Tensor, images: Tensor, change: float) -> Tensor:
    """Away from a base image by a factor `1 + change`, cut off at the bounds."""
    return (base + (1 + change) * (images - base)).clamp(0, 1)


def _contrast(images: Tensor, change: float) -> Tensor:
    return _blend(_grey(images).mean(dim=(1, 2, 3), keepdim=True), images, change)


def _sharpness(images: Tensor, change: float) -> Tensor:
    """Away from a smoothed image; its outermost pixels are not smoothed."""
    channels = images.shape[1]
    kernel = torch.ones((3, 3), dtype=images.dtype, device=images.device)
    kernel[1, 1] = 5
    inner = conv2d(images, (kernel / kernel.sum()).expand(channels, 1, 3, 3), groups=channels)
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = inner
    return _blend(smooth, images, change)


def _autocontrast(images: Tensor, _: float) -> Tensor:
    """Each channel stretched to the whole range."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (images - low) / torch.where(spread > 0, spread, 1), images)


def _equalize(images: Tensor, _: float) -> Tensor:
    """Each channel's values replaced by the share of pixels below them, as Pillow does with 256 levels."""
    flat = images.detach().flatten(2)
    levels = (flat * 255).round().clamp(0, 255).long()
    counts = torch.zeros((*flat.shape[:2], 256), dtype=torch.long, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    last = levels.amax(dim=2, keepdim=True)
    step = (counts.sum(dim=2, keepdim=True) - counts.gather(2, last)) // 255
    below = counts.cumsum(dim=2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    equalized = (table.gather(2, levels).to(images) / 255).view(images.shape)
    return images + (equalized - images).detach()


def _posterize(images: Tensor, bits: float) -> Tensor:
    """Only the highest bits of the 8 of each value."""
    step = 2 ** (8 - int(bits))
    kept = torch.div((images.detach() * 255).round(), step, rounding_mode="floor") * step / 255
    return images + (kept - images).detach()


def _solarize(images: Tensor, threshold: float) -> Tensor:
    return torch.where(images >= threshold, 1 - images, images)


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "shearX": lambda images, amount: _affine(images, ((1, amount, 0), (0, 1, 0)), 0.0),
    "shearY": lambda images, amount: _affine(images, ((1, 0, 0), (amount, 1, 0)), 0.0),
    "translateX": lambda images, amount: _affine(images, ((1, 0, amount * images.shape[-1]), (0, 1, 0)), 0.0),
    "translateY": lambda images, amount: _affine(images, ((1, 0, 0), (0, 1, amount * images.shape[-2])), 0.0),
    "rotate": _rotate,
    "color": lambda images, amount: _blend(_grey(images), images, amount),
    "posterize": _posterize,
    "solarize": _solarize,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "brightness": lambda images, amount: _blend(torch.zeros_like(images), images, amount),
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda images, _: 1 - images,
}
"""Every operation by name: from images `[N, C, H, W]` in [0, 1] and a strength to images."""
