"""Labeled data from array files: IDX as MNIST uses it, NumPy's `.npz`, and `.safetensors`."""

import gzip
import struct
import zipfile
import zlib
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradleak.errors import BadInput, refuse
from gradleak.tensorfiles import read_safetensors
from gradleak.zoo.data.dataset import Dataset

KEYS = (("inputs", "targets"), ("x", "y"), ("images", "labels"))
IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801
"""Magic numbers: unsigned bytes (08) in three dimensions and in one."""

GZIP_MARK = b"\x1f\x8b"
DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile)
CHANNELS = (1, 3)


def mnist_idx(images_path: str | Path, labels_path: str | Path) -> Dataset:
    """Gray images `[n, 1, h, w]` in [0, 1] and labels from a pair of IDX files, plain or gzipped.

    Classes are named "0", "1", ...; there are ten, or as many as the largest label needs. Format: Y. LeCun,
    C. Cortes, C. J. C. Burges, *The MNIST database of handwritten digits*, 1998.

    Args:
        images_path: a file of bytes in three dimensions, such as `t10k-images-idx3-ubyte.gz`.
        labels_path: a file of bytes in one dimension, such as `t10k-labels-idx1-ubyte.gz`.

    Returns:
        The data set, named after the images file.

    Raises:
        BadInput: when a file is missing, in another format, truncated or too long, or when the counts differ.
    """
    images_path, labels_path = Path(images_path), Path(labels_path)
    problems: list[str] = []
    images = _idx(images_path, IDX_IMAGES, problems)
    labels = _idx(labels_path, IDX_LABELS, problems)
    if images is not None and labels is not None and len(images) != len(labels):
        problems.append(
            f"{labels_path.name}: expected {len(images)} labels, one per image, got {len(labels)}; "
            "give the two files of one set"
        )
    if images is None or labels is None or problems:
        raise BadInput(problems)
    targets = labels.long()
    classes = max(10, int(targets.max()) + 1) if len(targets) else 10
    name = images_path.name.split(".")[0]
    return Dataset(name, images[:, None].float().div_(255), targets, tuple(str(label) for label in range(classes)))


def npz(path: str | Path) -> Dataset:
    """Inputs and integer targets `[n]` from a NumPy `.npz` archive, under one of three pairs of names.

    The names are `inputs` and `targets`, `x` and `y`, or `images` and `labels`. Inputs are uint8 (divided by
    255), bool, or floating-point (taken as they are: images must lie in [0, 1]), and are

    * `[n, d]`: rows,
    * `[n, h, w]`: gray images,
    * `[n, c, h, w]` or `[n, h, w, c]`: images; c is 1 or 3, and exactly one of the two places may hold a 1 or 3.

    Classes are named "0", "1", ... up to the largest target. Pickled content is refused.

    Returns:
        The data set, named after the file.

    Raises:
        BadInput: when the file is missing or damaged, holds pickles, or its arrays do not fit this description.
    """
    path = Path(path)
    if not path.is_file() or not zipfile.is_zipfile(path):
        got = "another format" if path.is_file() else "no such file"
        raise BadInput([f"{path}: expected an .npz archive, got {got}; write it with numpy.savez"])
    problems: list[str] = []
    arrays: dict[str, Tensor] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = _pair(path, tuple(archive.files))
            for name in names:
                try:
                    arrays[name] = _tensor(archive[name])
                except (ValueError, TypeError) as error:
                    problems.append(f"{path.name}: expected numbers in {name!r}, got: {error}; save numeric arrays")
    except (*DAMAGED, RuntimeError) as error:  # zipfile raises RuntimeError for encrypted members
        raise BadInput([f"{path}: expected a whole .npz archive, got: {error}; copy or write it again"]) from error
    refuse(problems)
    return _labeled(path, arrays[names[0]], arrays[names[1]])


def safetensors_data(path: str | Path) -> Dataset:
    """Inputs and integer targets `[n]` from a `.safetensors` file, named and shaped as for `npz`.

    Returns:
        The data set, named after the file.

    Raises:
        BadInput: when the file is missing, damaged or in another format, or its tensors do not fit.
    """
    path = Path(path)
    tensors, _ = read_safetensors(path)
    names = _pair(path, tuple(tensors))
    return _labeled(path, tensors[names[0]], tensors[names[1]])


def _idx(path: Path, magic: int, problems: list[str]) -> Tensor | None:
    """The bytes of an IDX file in their shape; None if a problem was added."""
    if not path.is_file():
        problems.append(f"{path}: expected an IDX file, got no such file; check the path")
        return None
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP_MARK)) == GZIP_MARK
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    except DAMAGED as error:
        problems.append(f"{path.name}: expected a whole gzip file, got: {error}; copy it again")
        return None
    rank = magic & 0xFF
    header = 4 + 4 * rank
    if len(content) < header or struct.unpack(">I", content[:4])[0] != magic:
        problems.append(
            f"{path.name}: expected IDX bytes in {rank} dimension(s) (magic number {magic:#06x}), "
            f"got {content[:4].hex() or 'an empty file'}; give images and labels in this order"
        )
        return None
    shape = struct.unpack(f">{rank}I", content[4:header])
    expected = int(np.prod(shape, dtype=object))
    if len(content) - header != expected:
        problems.append(
            f"{path.name}: expected {expected} bytes for shape {list(shape)}, got {len(content) - header}; "
            "copy the file again"
        )
        return None
    return torch.as_tensor(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def _pair(path: Path, names: tuple[str, ...]) -> tuple[str, str]:
    pairs = [pair for pair in KEYS if set(pair) <= set(names)]
    if len(pairs) != 1:
        known = " or ".join(f"{inputs!r} and {targets!r}" for inputs, targets in KEYS)
        raise BadInput([f"{path.name}: expected arrays named {known}, got {sorted(names)}; keep one such pair"])
    return pairs[0]


def _tensor(array: object) -> Tensor:
    """The array in a type that torch knows: float32, uint8, bool or int64.

    Returns:
        The same values, or infinities for those beyond float32.

    Raises:
        TypeError: when it does not hold real numbers.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError("bytes that are no array")
    array = cast(npt.NDArray[np.generic], array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"data type {array.dtype}")
    if array.dtype.kind == "f":
        # Values beyond float32 become infinite here and are reported with the other values that are not finite.
        with np.errstate(over="ignore"):
            return torch.as_tensor(array.astype(np.float32))
    return torch.as_tensor(array if array.dtype.name in ("uint8", "bool") else array.astype(np.int64))


def _labeled(path: Path, inputs: Tensor, targets: Tensor) -> Dataset:
    problems = [*_input_problems(inputs)]
    integers = not targets.is_floating_point() and not targets.is_complex()
    if not integers or targets.dim() != 1 or len(targets) == 0:
        got = f"{targets.dtype} {list(targets.shape)}"
        problems.append(f"targets: expected integers [n], got {got}; give one class index per example")
    refuse(f"{path.name}: {problem}" for problem in problems)
    values = inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs.float()
    if values.dim() == 3:
        values = values[:, None]
    elif values.dim() == 4 and values.shape[1] not in CHANNELS:
        values = values.permute(0, 3, 1, 2)
    numbers = targets.long()
    names = tuple(str(number) for number in range(max(1, int(numbers.max()) + 1)))
    return Dataset(path.stem, values.contiguous(), numbers, names)


def _input_problems(inputs: Tensor) -> list[str]:
    problems: list[str] = []
    shape = list(inputs.shape)
    if inputs.dtype not in (torch.uint8, torch.bool) and not inputs.is_floating_point():
        problems.append(f"inputs: expected uint8, bool or floating-point, got {inputs.dtype}; convert them")
    if not 2 <= inputs.dim() <= 4:
        problems.append(f"inputs: expected [n, d], [n, h, w], [n, c, h, w] or [n, h, w, c], got {shape}; reshape them")
    elif inputs.dim() == 4 and (shape[1] in CHANNELS) == (shape[3] in CHANNELS):
        problems.append(
            f"inputs: expected 1 or 3 channels in either dimension 1 or dimension 3, got {shape}; "
            "arrange them so that exactly one of the two holds the channels"
        )
    return problems
