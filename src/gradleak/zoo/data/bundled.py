"""Data inside the wheels of scikit-image and scikit-learn: nothing is ever downloaded."""

import gzip
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gradleak.errors import BadInput, refuse
from gradleak.zoo.data.dataset import Dataset

PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}

FACES = 100
"""The first 100 of the 200 patches of `skimage.data.lfw_subset` are faces, the others are not."""

DIGIT_MAXIMUM = 16
"""scikit-learn's digits count the set pixels in 4x4 blocks."""

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
}
"""The natural color photographs that both wheels ship, one class each, in alphabetical order of the class."""

SMALLEST_WINDOW = 0.5
"""A crop's window is between half and all of the photograph's shorter side."""

LARGEST_SIZE = 150
"""Half of the shorter side of the smallest photograph (451x300): up to here crops are never enlarged."""


def faces() -> Dataset:
    """200 gray patches of 1x25x25 in [0, 1]: 100 faces of *Labeled Faces in the Wild* and 100 patches without one.

    Source: `skimage.data.lfw_subset`; G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller, *Labeled Faces in the
    Wild*, University of Massachusetts technical report 07-49, 2007.

    Returns:
        The data set; class 0 is "face", class 1 "not a face".

    Raises:
        BadInput: when this build of scikit-image lacks them.
    """
    with _packaged("skimage", "data/lfw_subset.npy", "the faces").open("rb") as file:
        patches: npt.NDArray[np.float64] = np.load(file, allow_pickle=False)
    targets = (torch.arange(len(patches)) >= FACES).long()
    return Dataset("faces", torch.as_tensor(patches).float()[:, None], targets, ("face", "not a face"))


def digits() -> Dataset:
    """1,797 handwritten digits of 1x8x8 in [0, 1], in steps of 1/16.

    Source: `sklearn.datasets.load_digits`; E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*,
    UCI Machine Learning Repository, 1998 (its test set).

    Returns:
        The data set; class d is the digit d.

    Raises:
        BadInput: when this build of scikit-learn lacks them.
    """
    with (
        _packaged("sklearn", "datasets/data/digits.csv.gz", "the digits").open("rb") as packed,
        gzip.open(packed) as file,
    ):
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    inputs = torch.as_tensor(rows[:, :-1]).float().div(DIGIT_MAXIMUM).reshape(-1, 1, 8, 8)
    return Dataset("digits", inputs, torch.as_tensor(rows[:, -1].copy()), tuple(str(digit) for digit in range(10)))


def photographs(size: int = 32, count: int = 200, seed: int = 0) -> Dataset:
    """Random color crops of 3 x size x size in [0, 1] from ten photographs, one class each.

    Each crop is a square window of half to all of its photograph's shorter side, reduced with antialiasing, so
    that it shows recognizable content. Classes take turns, so they are as balanced as `count` allows; a larger
    `count` with the same seed continues the same crops. Crops of one photograph overlap: a model trained on
    some is not tested by others.

    Args:
        size: pixels per side, 1 to 150.
        count: number of crops, at least 1.
        seed: decides the windows, at least 0.

    Returns:
        The data set; example i shows photograph i mod 10.

    Raises:
        BadInput: when a number is out of range, or a photograph is missing from its package.
    """
    problems: list[str] = []
    if not 1 <= size <= LARGEST_SIZE:
        problems.append(f"size: expected 1 to {LARGEST_SIZE} pixels, got {size}; larger crops would be enlarged")
    if count < 1:
        problems.append(f"count: expected at least 1, got {count}; give 1 or more")
    if seed < 0:
        problems.append(f"seed: expected at least 0, got {seed}; give 0 or more")
    refuse(problems)
    sources = [_photograph(*PHOTOGRAPHS[name]) for name in PHOTOGRAPHS]
    generator = np.random.default_rng(seed)
    crops = [_crop(sources[index % len(sources)], size, generator) for index in range(count)]
    inputs = torch.as_tensor(np.stack(crops)).permute(0, 3, 1, 2).float().div(255).contiguous()
    return Dataset("photographs", inputs, torch.arange(count) % len(sources), tuple(PHOTOGRAPHS))


def _crop(photograph: Image.Image, size: int, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    scale, left, top = generator.random(3)
    side = min(photograph.size) * (SMALLEST_WINDOW + (1 - SMALLEST_WINDOW) * scale)
    x, y = left * (photograph.width - side), top * (photograph.height - side)
    crop = photograph.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side))
    return np.asarray(crop)


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _photograph(package: str, path: str) -> Image.Image:
    with _packaged(package, path, "the photographs").open("rb") as file, Image.open(file) as image:
        return image.convert("RGB")


def _packaged(package: str, path: str, purpose: str) -> Traversable:
    """A file inside an installed package.

    It is read from the package's folder and not through the package's own loader, which may download.

    Returns:
        The file, which exists.

    Raises:
        BadInput: when this build of the package lacks the file.
    """
    file = resources.files(package).joinpath(path)
    if not file.is_file():
        raise BadInput(
            [f"{purpose}: expected {path} inside {PACKAGES[package]}, got no such file; reinstall {PACKAGES[package]}"]
        )
    return file
