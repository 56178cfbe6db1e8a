"""Labeled images from a folder or a tar archive, with one sub-folder per class."""

import lzma
import os
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from gradleak.errors import BadInput, refuse
from gradleak.zoo.data.dataset import Dataset

Pixels = npt.NDArray[np.uint8]
"""`[height, width]` of a gray image or `[height, width, 3]` of a color image."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
GRAY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "F")
"""First letters of the modes with more than 8 bits, which a conversion would clip without a word."""

LARGEST_MEMBER = 64 * 2**20
"""Bytes of one image in an archive; a compressed archive can claim to hold anything."""

LISTED_PROBLEMS = 20
CORRUPT = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged images of its various formats; randomly damaged TIFFs bring the stranger ones."""

UNREADABLE_ARCHIVE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


def image_folder(path: str | Path, size: int | None = None) -> Dataset:
    """The images in the sub-folders of a folder, one class per sub-folder, in alphabetical order.

    A folder that holds images directly is one class of its own name. Files that are not images (by their
    suffix) and hidden files are ignored. Images are gray, `[n, 1, h, w]`, if all of them are, and `[n, 3, h, w]`
    otherwise, in [0, 1]; transparency is dropped, and a camera's orientation mark is obeyed.

    Args:
        path: the folder.
        size: pixels per side to which every image is reduced or enlarged, after the largest centered square is
            cut out; None keeps the images, which must then all have the same size.

    Returns:
        The data set, in the order of class and file names.

    Raises:
        BadInput: when there is no such folder, no image in it, images beside class folders, an empty class, an
            image that cannot be decoded, or several sizes and no `size`; all problems at once.
    """
    path = Path(path)
    _refuse_size(size)
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise BadInput([f"{path}: expected a folder of images, got {got}; check the path"])
    problems: list[str] = []
    pictures: dict[tuple[str, ...], Pixels] = {}
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    for folder in (path, *folders):
        parents = () if folder == path else (folder.name,)
        found = [entry for entry in sorted(folder.iterdir()) if entry.is_file() and _is_image(entry.name)]
        for file in found:
            _decode(file, str(file.relative_to(path)), (*parents, file.name), size, pictures, problems)
        if folder != path and not found:
            problems.append(f"{folder}: expected images of one class directly inside, got none; add some or remove it")
    return _dataset(path, path.resolve().name, pictures, size, problems)


def image_tar(path: str | Path, size: int | None = None) -> Dataset:
    """The images of a tar archive of an image folder, plain or compressed; see `image_folder`.

    Folders that contain everything else are looked through, so `name/class/file` and `class/file` are the same.
    Members are decoded in memory and nothing is written to disk; links, devices and other files are ignored. If
    a name occurs twice the later one counts, as in extraction.

    Args:
        path: the archive.
        size: as for `image_folder`.

    Returns:
        The data set, in the order of class and file names.

    Raises:
        BadInput: when the file is missing, not a tar archive or truncated, and as for `image_folder`.
    """
    path = Path(path)
    _refuse_size(size)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise BadInput([f"{path}: expected a tar archive of images, got {got}; check the path"])
    problems: list[str] = []
    pictures: dict[tuple[str, ...], Pixels] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if not member.isfile() or not all(_is_visible(part) for part in parts) or not _is_image(member.name):
                    continue
                content = archive.extractfile(member) if member.size <= LARGEST_MEMBER else None
                if content is None:
                    got = f"{member.size} bytes"
                    problems.append(
                        f"{member.name}: expected an image of at most {LARGEST_MEMBER} bytes, got {got}; remove it"
                    )
                    continue
                # Read whole, because Pillow seeks backwards, which restarts decompression from the beginning.
                _decode(BytesIO(content.read()), member.name, parts, size, pictures, problems)
    except UNREADABLE_ARCHIVE as error:
        raise BadInput([f"{path}: expected a whole tar archive, got: {error}; copy or pack it again"]) from error
    common = len(os.path.commonprefix([parts[:-1] for parts in pictures]))
    name = next(iter(pictures))[common - 1] if common else path.name.split(".")[0]
    return _dataset(path, name, {parts[common:]: pixels for parts, pixels in pictures.items()}, size, problems)


def _refuse_size(size: int | None) -> None:
    refuse([f"size: expected at least 1 pixel, got {size}; give 1 or more"] if size is not None and size < 1 else [])


def _is_visible(part: str) -> bool:
    return not part.startswith(".")


def _is_image(name: str) -> bool:
    return _is_visible(PurePosixPath(name).name) and name.lower().endswith(SUFFIXES)


def _decode(
    file: Path | IO[bytes],
    label: str,
    parts: tuple[str, ...],
    size: int | None,
    pictures: dict[tuple[str, ...], Pixels],
    problems: list[str],
) -> None:
    """Add the image to `pictures`, or what is wrong with it to `problems`."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(DEEP_MODES):
                problems.append(
                    f"{label}: expected 8 bits per value, got mode {image.mode}; convert the image to 8 bits"
                )
                return
            image = image.convert("L" if image.mode in GRAY_MODES else "RGB")
    except CORRUPT as error:
        # Pillow's message would name a memory address or repeat the path.
        problems.append(f"{label}: expected an image, got {type(error).__name__} when decoding; replace or remove it")
        return
    pictures[parts] = np.asarray(image if size is None else _square(image, size))


def _square(image: Image.Image, size: int) -> Image.Image:
    """The largest centered square of an image at size x size pixels, reduced with antialiasing."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cut first: resampling a box of the whole image would let the pixels around the box shine through.
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def _dataset(
    path: Path,
    name: str,
    pictures: Mapping[tuple[str, ...], Pixels],
    size: int | None,
    problems: Iterable[str],
) -> Dataset:
    """Arrange decoded images `(class, file)` or `(file,)` as a data set, or raise everything that is wrong."""
    found = list(problems)
    depths = {len(parts) for parts in pictures}
    if not pictures and not found:
        found.append(f"{path}: expected images ({', '.join(SUFFIXES)}), got none; check the path")
    if len(depths) > 1 or max(depths, default=1) > 2:
        found.append(f"{path}: expected all images in class folders or none, got a mixture of depths; move them")
    sizes = Counter(f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in pictures.values())
    if len(sizes) > 1:
        ordered_sizes = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        got = ", ".join(f"{dimensions} ({number} images)" for dimensions, number in ordered_sizes[:3])
        found.append(f"{path}: expected images of one size, got {got}{' ...' if len(sizes) > 3 else ''}; give a size")
    if len(found) > LISTED_PROBLEMS:
        rest = len(found) - LISTED_PROBLEMS
        found = [
            *found[:LISTED_PROBLEMS],
            f"{path}: expected no further problem, got {rest} more; fix those above first",
        ]
    refuse(found)
    ordered = sorted(pictures)
    labels = [parts[0] if len(parts) > 1 else name for parts in ordered]
    class_names = tuple(sorted(set(labels)))
    numbers = {label: number for number, label in enumerate(class_names)}
    gray = all(pixels.ndim == 2 for pixels in pictures.values())
    stacked = np.stack([pictures[parts] if gray else _colored(pictures[parts]) for parts in ordered])
    inputs = torch.as_tensor(stacked[:, None] if gray else stacked.transpose(0, 3, 1, 2)).float().div_(255)
    targets = torch.tensor([numbers[label] for label in labels])
    return Dataset(path.name.split(".")[0] or name, inputs.contiguous(), targets, class_names)


def _colored(pixels: Pixels) -> Pixels:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
