"""One door to all data: a bundled name or a path."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gradleak.errors import BadInput
from gradleak.zoo.data.array_files import mnist_idx, npz, safetensors_data
from gradleak.zoo.data.bundled import digits, faces, photographs
from gradleak.zoo.data.dataset import Dataset
from gradleak.zoo.data.image_files import image_folder, image_tar
from gradleak.zoo.data.texts import MESSAGES, holds_texts, messages, read_texts, text_dataset

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
IDX_NAMES = (("images-idx3", "labels-idx1"), ("images.idx3", "labels.idx1"))
READABLE = "a folder of images, .tar or .tar.gz of one, .npz, .safetensors, an images-idx3 file, or .txt"

MESSAGE_TOKENS = 15
"""Words and punctuation marks of the longest message."""


@dataclass(frozen=True)
class DataCard:
    """A data set that needs no download.

    Attributes:
        name: how `load`, specifications and the command line call it.
        description: one line on what it is.
        source: where it comes from.
        input_shape: `(channels, height, width)` at its native size; of texts the tokens of the longest one.
        count: number of examples.
        num_classes: number of classes.
        load: gives it at its native size (None) or with images of `size` x `size` pixels.
    """

    name: str
    description: str
    source: str
    input_shape: tuple[int, ...]
    count: int
    num_classes: int
    load: Callable[[int | None], Dataset]


def _resized(dataset: Dataset, size: int | None) -> Dataset:
    return dataset if size is None else dataset.resized(size)


BUNDLED: tuple[DataCard, ...] = (
    DataCard(
        "faces",
        "gray patches of photographs: 100 faces and 100 patches without a face",
        "Labeled Faces in the Wild, as shipped with scikit-image",
        (1, 25, 25),
        200,
        2,
        lambda size: _resized(faces(), size),
    ),
    DataCard(
        "digits",
        "handwritten digits in 17 gray levels",
        "UCI Optical Recognition of Handwritten Digits, as shipped with scikit-learn",
        (1, 8, 8),
        1797,
        10,
        lambda size: _resized(digits(), size),
    ),
    DataCard(
        "photographs",
        "random color crops of ten photographs, one class each",
        "photographs shipped with scikit-image and scikit-learn",
        (3, 32, 32),
        200,
        10,
        lambda size: photographs() if size is None else photographs(size),
    ),
    DataCard(
        MESSAGES,
        "short English messages from home, work, travel and to a support desk, one class each; tokens are words",
        "written for this package",
        (MESSAGE_TOKENS,),
        400,
        4,
        lambda size: _resized(text_dataset(messages()), size),
    ),
)
"""Every data set that `load` knows by name."""


def load(reference: str | Path, *, size: int | None = None) -> Dataset:
    """The data set of a bundled name, or of a path; the format follows from the path's kind and suffix.

    Readable paths are a folder of images (`image_folder`), a tar archive of one (`image_tar`), `.npz` (`npz`),
    `.safetensors` (`safetensors_data`), and an `images-idx3` file with its `labels-idx1` file beside it
    (`mnist_idx`), and a `.txt` file or a folder of them (`read_texts`, `text_dataset`). A bundled name wins over a path
    of the same name: write `./faces` for the path.

    Args:
        reference: "faces", "digits", "photographs", "messages", or a path.
        size: pixels per side of the images; None keeps them as they are.

    Returns:
        The data set.

    Raises:
        BadInput: when the reference is neither, or what it names cannot be used.
    """
    card = next((card for card in BUNDLED if card.name == str(reference)), None)
    if card is not None:
        return card.load(size)
    path = Path(reference)
    name = path.name.lower()
    if not path.exists():
        raise BadInput([_nothing_there(str(reference))])
    if holds_texts(path):
        return _resized(text_dataset(read_texts(path)), size)
    if path.is_dir():
        return image_folder(path, size)
    if name.endswith(ARCHIVE_SUFFIXES):
        return image_tar(path, size)
    if name.endswith(".npz"):
        return _resized(npz(path), size)
    if name.endswith(".safetensors"):
        return _resized(safetensors_data(path), size)
    if any(images in name for images, _ in IDX_NAMES):
        return _resized(mnist_idx(path, _labels_beside(path)), size)
    raise BadInput([f"{path}: expected {READABLE}, got {path.name!r}; convert it to one of these"])


def _nothing_there(reference: str) -> str:
    names = [card.name for card in BUNDLED]
    close = get_close_matches(reference, names, n=1)
    advice = f"did you mean {close[0]!r}?" if close else "check the path"
    return f"data {reference!r}: expected one of {', '.join(names)}, or an existing path, got neither; {advice}"


def _labels_beside(path: Path) -> Path:
    """The labels of an IDX images file, gzipped or not, by the usual change of name.

    Returns:
        The path of the labels file.

    Raises:
        BadInput: when there is no such file.
    """
    name = path.name
    for images, labels in IDX_NAMES:
        name = name.replace(images, labels)
    other = name.removesuffix(".gz") if name.endswith(".gz") else name + ".gz"
    for candidate in (path.with_name(name), path.with_name(other)):
        if candidate.is_file():
            return candidate
    raise BadInput([f"{path}: expected its labels beside it in {name} or {other}, got neither; put the file there"])
