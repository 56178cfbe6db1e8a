"""Image folders and archives."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from gradleak.errors import BadInput
from gradleak.zoo.data import Dataset, image_folder, image_tar

Read = Callable[[Path, int | None], Dataset]


def pixels(seed: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, array: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pack(folder: Path, *, compression: str = "", prefix: str = "top") -> Path:
    """A tar archive of a folder, its members in reverse order."""
    path = folder.with_name(f"{folder.name}.tar{'.' + compression if compression else ''}")
    with tarfile.open(path, f"w:{compression}") as archive:  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.add(file, Path(prefix) / file.relative_to(folder), recursive=False)  # pyright: ignore[reportUnknownMemberType]
    return path


def from_tar(folder: Path, size: int | None) -> Dataset:
    return image_tar(pack(folder), size)


READERS = pytest.mark.parametrize("read", [image_folder, from_tar])


@READERS
def test_classes_are_sub_folders_in_alphabetical_order(tmp_path: Path, read: Read) -> None:
    folder = tmp_path / "animals"
    files = {"zebra/1.png": 1, "ant/2.png": 2, "ant/10.PNG": 3, "moth/a.bmp": 4}
    for name, seed in files.items():
        write(folder / name, pixels(seed, 4, 5, 3))
    (folder / "ant" / "notes.txt").write_text("not an image")
    (folder / "ant" / "._2.png").write_text("a hidden file that another system leaves beside an image")
    (folder / ".cache").mkdir()
    data = read(folder, None)
    assert data.name == "animals"
    assert data.class_names == ("ant", "moth", "zebra")
    assert data.targets.tolist() == [0, 0, 1, 2]
    for index, seed in enumerate((3, 2, 4, 1)):
        expected = torch.as_tensor(pixels(seed, 4, 5, 3)).permute(2, 0, 1).float() / 255
        assert torch.equal(data.inputs[index], expected)


@READERS
def test_a_flat_folder_is_one_class(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "top" / "b.png", pixels(1, 3, 3))
    write(tmp_path / "top" / "a.png", pixels(2, 3, 3))
    data = read(tmp_path / "top", None)
    assert data.class_names == ("top",)
    assert torch.equal(data.inputs[0, 0] * 255, torch.as_tensor(pixels(2, 3, 3)).float())


@READERS
def test_gray_only_if_all_are(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "d" / "x" / "1.png", pixels(1, 3, 3))
    assert read(tmp_path / "d", None).input_shape == (1, 3, 3)
    write(tmp_path / "d" / "x" / "2.png", pixels(2, 3, 3, 4))
    data = read(tmp_path / "d", None)
    assert data.input_shape == (3, 3, 3)
    assert torch.equal(data.inputs[0, 0], data.inputs[0, 2])
    # Transparency is dropped, not blended.
    assert torch.equal(data.inputs[1], torch.as_tensor(pixels(2, 3, 3, 4)[..., :3]).permute(2, 0, 1).float() / 255)


@READERS
def test_mixed_sizes_need_a_size(tmp_path: Path, read: Read) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    write(tmp_path / "d" / "x" / "1.png", wide)
    write(tmp_path / "d" / "x" / "2.png", pixels(2, 5, 5, 3))
    with pytest.raises(BadInput, match=r"one size, got 30x10 \(1 images\), 5x5 \(1 images\); give a size"):
        read(tmp_path / "d", None)
    data = read(tmp_path / "d", 5)
    assert data.input_shape == (3, 5, 5)
    # The centered square of the wide image is the bright one.
    assert torch.allclose(data.inputs[0], torch.full((3, 5, 5), 200 / 255), atol=1e-6)
    assert torch.equal(data.inputs[1] * 255, torch.as_tensor(pixels(2, 5, 5, 3)).permute(2, 0, 1).float())
    with pytest.raises(BadInput, match="at least 1 pixel"):
        read(tmp_path / "d", 0)


@READERS
def test_every_damaged_image_is_named(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "d" / "x" / "good.png", pixels(1, 40, 40, 3))
    whole = (tmp_path / "d" / "x" / "good.png").read_bytes()
    (tmp_path / "d" / "x" / "short.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d" / "x" / "text.jpg").write_text("hello")
    (tmp_path / "d" / "x" / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(tmp_path / "d" / "x" / "deep.png")
    with pytest.raises(BadInput) as caught:
        read(tmp_path / "d", None)
    assert len(caught.value.problems) == 4
    for name in ("short.png", "text.jpg", "empty.png", "deep.png"):
        assert name in str(caught.value)
    assert "8 bits" in str(caught.value)


@READERS
def test_a_long_list_of_problems_is_cut(tmp_path: Path, read: Read) -> None:
    (tmp_path / "d" / "x").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "d" / "x" / f"{number}.png").write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        read(tmp_path / "d", None)
    assert len(caught.value.problems) == 21
    assert "10 more" in caught.value.problems[-1]


@READERS
def test_images_beside_class_folders_are_refused(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "d" / "x" / "1.png", pixels(1, 3, 3))
    write(tmp_path / "d" / "2.png", pixels(1, 3, 3))
    with pytest.raises(BadInput, match="mixture"):
        read(tmp_path / "d", None)


@READERS
def test_no_images(tmp_path: Path, read: Read) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("nothing")
    with pytest.raises(BadInput, match="expected images .*got none"):
        read(tmp_path / "d", None)


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x" / "1.png", pixels(1, 3, 3))
    write(tmp_path / "y" / "deeper" / "1.png", pixels(1, 3, 3))
    with pytest.raises(BadInput, match="y: expected images of one class directly inside"):
        image_folder(tmp_path)


def test_the_orientation_mark_of_a_camera_is_obeyed(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(1, 4, 6, 3))
    marked = image.getexif()
    marked[0x0112] = 6  # turn by 90 degrees clockwise to show
    image.save(tmp_path / "1.png", exif=marked)
    expected = np.rot90(pixels(1, 4, 6, 3), k=-1).copy()
    assert torch.equal(image_folder(tmp_path).inputs[0] * 255, torch.as_tensor(expected).permute(2, 0, 1).float())


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_compressed_archives_and_any_depth_of_wrapping(tmp_path: Path, compression: str) -> None:
    for name, seed in (("a/1.png", 1), ("b/1.png", 2)):
        write(tmp_path / "d" / name, pixels(seed, 4, 4, 3))
    plain = image_folder(tmp_path / "d")
    for prefix in ("", ".", "one", "one/two", "/absolute"):
        data = image_tar(pack(tmp_path / "d", compression=compression, prefix=prefix))
        assert (data.name, data.class_names) == ("d", ("a", "b"))
        assert torch.equal(data.inputs, plain.inputs)


def test_links_devices_and_climbing_names_are_ignored_and_nothing_is_written(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels(1, 3, 3)).save(content, "PNG")
    path = tmp_path / "sub" / "evil.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for name in ("d/x/1.png", "../climbed.png", "d/../../x/climbed.png"):
            member = tarfile.TarInfo(name)
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
        for kind, name in (
            (tarfile.SYMTYPE, "d/x/link.png"),
            (tarfile.LNKTYPE, "d/x/hard.png"),
            (tarfile.CHRTYPE, "d/x/dev.png"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    data = image_tar(path)
    assert (len(data), data.class_names) == (1, ("x",))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_huge_member_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.tar"
    member = tarfile.TarInfo("x/1.png")
    member.size = 2**40
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(BadInput, match="at most 67108864 bytes|whole tar archive"):
        image_tar(path)


def test_missing_truncated_and_foreign_archives(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing there"):
        image_tar(tmp_path / "none.tar")
    with pytest.raises(BadInput, match="a folder"):
        image_tar(tmp_path)
    with pytest.raises(BadInput, match="nothing there"):
        image_folder(tmp_path / "none")
    (tmp_path / "text.tar").write_text("not an archive" * 100)
    with pytest.raises(BadInput, match="whole tar archive"):
        image_tar(tmp_path / "text.tar")
    with pytest.raises(BadInput, match="got a file"):
        image_folder(tmp_path / "text.tar")
    write(tmp_path / "d" / "x" / "1.png", pixels(1, 64, 64, 3))
    for compression in ("", "gz", "xz"):
        path = pack(tmp_path / "d", compression=compression)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(BadInput, match="whole tar archive"):
            image_tar(path)
