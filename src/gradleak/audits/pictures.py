"""Images as PNG bytes, pixel for pixel."""

import io

import numpy as np
from PIL import Image
from torch import Tensor

_LIGHT, _DARK = 225, 190
_SMALLEST_SIDE = 128
_GAP = 4


def is_image(inputs: Tensor) -> bool:
    """Whether a batch `[N, ...]` can be shown: one or three channels, at most a few thousand pixels a side."""
    return inputs.ndim == 4 and inputs.shape[1] in {1, 3} and max(inputs.shape[2:]) <= 4096


def encode_png(image: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> bytes:
    """One image `[C, H, W]` as PNG, one file pixel for each; values outside the bounds are clamped.

    Pixels that are not finite become a checkerboard, so that "nothing there" cannot be taken for gray.

    Args:
        image: in the units of the bounds.
        bounds: what is black and what is white.

    Returns:
        The file's bytes.
    """
    return _encoded(Image.fromarray(_bytes(image, bounds)))


def side_by_side(truth: Tensor, reconstruction: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> bytes:
    """Each true image left of its reconstruction, one row for each example, enlarged without smoothing.

    Args:
        truth: `[N, C, H, W]`.
        reconstruction: `[N, C, H, W]`.
        bounds: what is black and what is white.

    Returns:
        A PNG file's bytes.
    """
    height, width = truth.shape[2:]
    factor = max(1, -(-_SMALLEST_SIDE // max(height, width)))
    size = (width * factor, height * factor)
    sheet = Image.new("RGB", (2 * size[0] + _GAP, len(truth) * (size[1] + _GAP) - _GAP), "white")
    for row, pair in enumerate(zip(truth, reconstruction, strict=True)):
        for column, image in enumerate(pair):
            enlarged = Image.fromarray(_bytes(image, bounds)).resize(size, Image.Resampling.NEAREST)
            sheet.paste(enlarged, (column * (size[0] + _GAP), row * (size[1] + _GAP)))
    return _encoded(sheet)


def _bytes(image: Tensor, bounds: tuple[float, float]) -> np.ndarray:
    """Pixels `[H, W]` or `[H, W, 3]` as bytes."""
    low, high = bounds
    pixels = (image.detach().cpu().double().permute(1, 2, 0).numpy() - low) / (high - low)
    rows, columns = np.indices(pixels.shape[:2])
    board = np.where((rows // 2 + columns // 2) % 2 == 0, _LIGHT, _DARK)[..., None]
    usable = np.isfinite(pixels)
    # Rounded and clamped before the conversion: a byte would turn 1.01 into black.
    shown = np.where(usable, np.clip(np.rint(np.where(usable, pixels, 0.0) * 255), 0, 255), board).astype(np.uint8)
    return shown[..., 0] if shown.shape[2] == 1 else shown


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
