"""IDX, `.npz` and `.safetensors` data."""

import gzip
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from gradleak.errors import BadInput
from gradleak.zoo.data import mnist_idx, npz, safetensors_data

LABELS = np.array([3, 0, 2], np.uint8)


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def images(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("packed", [False, True])
def test_idx(tmp_path: Path, packed: bool) -> None:
    first, second = tmp_path / "a-images-idx3-ubyte", tmp_path / "a-labels-idx1-ubyte"
    for path, content in ((first, idx(images(3, 4, 5))), (second, idx(LABELS))):
        path.write_bytes(gzip.compress(content) if packed else content)
    data = mnist_idx(first, second)
    assert torch.equal(data.inputs[:, 0] * 255, torch.as_tensor(images(3, 4, 5)).float())
    assert data.targets.tolist() == [3, 0, 2]
    assert data.class_names == tuple("0123456789")


def test_idx_names_as_many_classes_as_the_labels_need(tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(idx(images(2, 2, 2)))
    (tmp_path / "l").write_bytes(idx(np.array([46, 1], np.uint8)))
    assert mnist_idx(tmp_path / "i", tmp_path / "l").num_classes == 47


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (idx(images(3, 4, 5)), idx(LABELS[:2]), ["expected 3 labels, one per image, got 2"]),
        (idx(LABELS), idx(images(3, 4, 5)), ["3 dimension(s)", "1 dimension(s)"]),
        (idx(images(3, 4, 5))[:-1], idx(LABELS) + b"x", ["60 bytes for shape [3, 4, 5], got 59", "3 bytes"]),
        (b"", b"\x1f\x8b broken", ["an empty file", "whole gzip file"]),
        (gzip.compress(idx(images(3, 4, 5)), mtime=0)[:-9], idx(LABELS), ["whole gzip file"]),
        (idx(images(0, 4, 5)), idx(LABELS[:0]), ["at least one number"]),
    ],
    ids=["counts", "swapped", "lengths", "broken", "truncated", "empty"],
)
def test_bad_idx(tmp_path: Path, first: bytes, second: bytes, words: list[str]) -> None:
    (tmp_path / "i").write_bytes(first)
    (tmp_path / "l").write_bytes(second)
    with pytest.raises(BadInput) as caught:
        mnist_idx(tmp_path / "i", tmp_path / "l")
    assert len(caught.value.problems) == len(words)
    for problem, word in zip(caught.value.problems, words, strict=True):
        assert word in problem


def test_missing_idx_files_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        mnist_idx(tmp_path / "i", tmp_path / "l")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("names", [("inputs", "targets"), ("x", "y"), ("images", "labels")])
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((3, 8, 7), (1, 8, 7)),
        ((3, 1, 8, 7), (1, 8, 7)),
        ((3, 3, 8, 7), (3, 8, 7)),
        ((3, 8, 7, 3), (3, 8, 7)),
        ((3, 5), (5,)),
    ],
)
def test_layouts(tmp_path: Path, names: tuple[str, str], stored: tuple[int, ...], expected: tuple[int, ...]) -> None:
    array = images(*stored)
    contents: dict[str, npt.NDArray[Any]] = {names[0]: array, names[1]: LABELS.astype(np.int32), "other": LABELS}
    np.savez(tmp_path / "a.npz", allow_pickle=False, **contents)
    save_file({name: torch.as_tensor(value) for name, value in contents.items()}, tmp_path / "a.safetensors")
    channels_first = np.moveaxis(array, -1, 1) if stored == (3, 8, 7, 3) else array
    for data in (npz(tmp_path / "a.npz"), safetensors_data(tmp_path / "a.safetensors")):
        assert data.input_shape == expected
        assert np.array_equal(data.inputs.numpy().reshape(channels_first.shape) * 255, channels_first)
        assert data.targets.tolist() == [3, 0, 2]
        assert data.class_names == ("0", "1", "2", "3")


def test_floating_point_and_bool_are_taken_as_they_are(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float64, ">f4", np.bool_):
        array = np.array([[0, 1], [1, 1]]).astype(dtype)
        np.savez(tmp_path / "a.npz", x=array, y=np.array([0, 1], ">i2"))
        data = npz(tmp_path / "a.npz")
        assert data.inputs.tolist() == [[0, 1], [1, 1]]
        assert data.targets.tolist() == [0, 1]
    save_file({"x": torch.ones(2, 3, dtype=torch.bfloat16), "y": torch.tensor([0, 1])}, tmp_path / "a.safetensors")
    assert safetensors_data(tmp_path / "a.safetensors").inputs.dtype == torch.float32


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (images(3, 3, 5, 3), LABELS, ["exactly one"]),
        (images(3, 2, 5, 4), LABELS, ["exactly one"]),
        (images(3), LABELS, ["reshape"]),
        (images(3, 1, 2, 2, 2), LABELS, ["reshape"]),
        (images(3, 2).astype(np.int32), LABELS.astype(np.float32), ["uint8, bool or floating-point", "integers [n]"]),
        (images(3, 2, 2), LABELS[:, None], ["integers [n]"]),
        (images(3, 2, 2), LABELS[:2], ["2 targets for 3 inputs"]),
        (images(3, 2, 2).astype(np.float32) + 1, LABELS, ["divide 8-bit values by 255"]),
        (np.full((3, 2), 1e300), LABELS, ["finite"]),
        (images(3, 2, 2), np.array([-1, 0, 1]), ["got -1 to 1"]),
        (images(3, 2), LABELS[:0], ["integers [n], got torch.uint8 [0]"]),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, inputs: npt.NDArray[Any], targets: npt.NDArray[Any], words: list[str]
) -> None:
    np.savez(tmp_path / "a.npz", inputs=inputs, targets=targets)
    with pytest.raises(BadInput) as caught:
        npz(tmp_path / "a.npz")
    assert len(caught.value.problems) == len(words)
    for problem, word in zip(caught.value.problems, words, strict=True):
        assert word in problem


def test_pickled_and_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([{}, []], dtype=object), y=np.array(["a", "b"]))
    with pytest.raises(BadInput) as caught:
        npz(path)
    assert len(caught.value.problems) == 2
    assert "Object arrays cannot be loaded" in caught.value.problems[0]
    assert "data type <U1" in caught.value.problems[1]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"hello")
        archive.writestr("y", b"hello")
    with pytest.raises(BadInput, match="no array"):
        npz(path)


def test_missing_names_are_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=LABELS, x=LABELS)
    with pytest.raises(BadInput, match=r"'x' and 'y'.*got \['data', 'x'\]"):
        npz(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=LABELS, y=LABELS, images=LABELS, labels=LABELS)
    with pytest.raises(BadInput, match="keep one such pair"):
        npz(tmp_path / "a.npz")


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(BadInput, match="no such file"):
        npz(path)
    np.save(tmp_path / "a.npy", LABELS)
    path.write_bytes((tmp_path / "a.npy").read_bytes())
    with pytest.raises(BadInput, match="another format"):
        npz(path)
    np.savez(path, x=images(3, 9, 9), y=LABELS)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BadInput, match="whole .npz archive"):
        npz(path)
    with pytest.raises(BadInput, match="expected a safetensors file, got a zip"):
        safetensors_data(path)
