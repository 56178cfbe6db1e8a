"""The one door: names, kinds of path, and what it says when it knows neither."""

import gzip
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gradleak.errors import BadInput
from gradleak.zoo.data import BUNDLED, load

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 4), dtype=np.uint8)
LABELS = np.array([1, 0], np.uint8)


def write_folder(folder: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        (folder / name).mkdir(parents=True)
        Image.fromarray(PIXELS[number]).save(folder / name / "1.png")
    return folder


def write_idx(images: Path, labels: Path, *, labels_packed: bool = False) -> Path:
    images.write_bytes(struct.pack(">4I", 0x0803, 2, 4, 4) + PIXELS.tobytes())
    content = struct.pack(">2I", 0x0801, 2) + LABELS.tobytes()
    labels.write_bytes(gzip.compress(content) if labels_packed else content)
    return images


def test_bundled_names() -> None:
    for card in BUNDLED:
        assert load(card.name).input_shape == card.input_shape
        if len(card.input_shape) == 3:
            assert load(card.name, size=12).input_shape == (card.input_shape[0], 12, 12)


def test_every_kind_of_path_gives_the_same_pixels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")):
        with tarfile.open(tmp_path / f"archive{suffix}", mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]
            archive.add(folder, "top")  # pyright: ignore[reportUnknownMemberType]
    np.savez(tmp_path / "arrays.npz", x=PIXELS, y=LABELS)
    save_file({"x": torch.as_tensor(PIXELS), "y": torch.as_tensor(LABELS)}, tmp_path / "tensors.safetensors")
    write_idx(tmp_path / "t-images-idx3-ubyte", tmp_path / "t-labels-idx1-ubyte")
    paths = [folder, *(tmp_path / f"archive{suffix}" for suffix in (".tar", ".tar.gz", ".tgz"))]
    paths += [tmp_path / "arrays.npz", tmp_path / "tensors.safetensors", tmp_path / "t-images-idx3-ubyte"]
    for path in paths:
        data = load(str(path))
        assert torch.equal(data.inputs[:, 0] * 255, torch.as_tensor(PIXELS).float()), path
        assert load(path, size=2).input_shape == (1, 2, 2), path


@pytest.mark.parametrize(("separator", "packed"), [("-", False), (".", False), ("-", True)])
def test_labels_are_found_beside_idx_images(tmp_path: Path, separator: str, packed: bool) -> None:
    images = tmp_path / f"train-images{separator}idx3-ubyte"
    labels = tmp_path / f"train-labels{separator}idx1-ubyte{'.gz' if packed else ''}"
    assert load(write_idx(images, labels, labels_packed=packed)).targets.tolist() == [1, 0]
    labels.unlink()
    with pytest.raises(BadInput, match="labels.idx1-ubyte or train-labels.idx1-ubyte.gz"):
        load(images)


def test_a_bundled_name_wins_over_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load("digits")) == 1797
    assert len(load("./digits")) == 2


def test_unknown_references() -> None:
    with pytest.raises(BadInput, match="did you mean 'faces'"):
        load("face")
    with pytest.raises(BadInput, match="faces, digits, photographs, messages, or an existing path.*check the path"):
        load("some/where.npz")


def test_unknown_kinds_of_file(tmp_path: Path) -> None:
    for name in ("data.csv", "t10k-labels-idx1-ubyte", "data.pt", "data.pkl"):
        (tmp_path / name).write_bytes(b"hello")
        with pytest.raises(BadInput, match=f"a folder of images.*got '{name}'"):
            load(tmp_path / name)


def test_rows_cannot_be_resized(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 5)), y=LABELS)
    assert load(tmp_path / "rows.npz").input_shape == (5,)
    with pytest.raises(BadInput, match="leave size out"):
        load(tmp_path / "rows.npz", size=8)
