"""The run folder: nothing is lost by a kill, nothing is written twice, and a failing disk is named."""

import errno
import io
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from gradleak.audits.pictures import encode_png
from gradleak.audits.store import Store, pack
from gradleak.errors import BadInput
from tests.audits.examples import images, record


def filled(folder: Path, count: int = 3) -> Store:
    store = Store.open(folder)
    for position in range(count):
        store.append(record([20.0 + position], examples=(position,)), images())
    return store


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    store = filled(tmp_path / "new" / "run")
    assert [kept.examples for kept in store.records()] == [(0,), (1,), (2,)]
    first = store.records()[0]
    kept = store.images(first)
    assert kept is not None
    assert torch.equal(kept.truth, images().truth)
    assert torch.equal(kept.snapshots, images().snapshots)
    assert store.contents().finished == {kept.id for kept in store.records()}
    for line in store.lines.read_text().splitlines():
        assert {"id", "status", "spec", "scores"} <= set(json.loads(line))


@pytest.mark.parametrize("cut", [1, 7, 200])
def test_a_line_cut_off_by_a_kill_is_left_out_and_then_replaced(tmp_path: Path, cut: int) -> None:
    store = filled(tmp_path)
    last = store.records()[-1]
    whole = store.lines.read_bytes()
    store.lines.write_bytes(whole[: -cut - 1])
    contents = store.contents()
    assert len(contents.records) == 2
    assert len(contents.warnings) == 1
    assert "cut off" in contents.warnings[0]
    store.append(last, images())
    assert store.lines.read_bytes() == whole
    assert store.contents().warnings == ()


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.lines.write_bytes(store.lines.read_bytes()[:-1])
    assert len(store.records()) == 3
    store.append(record([50.0], examples=(9,)), images())
    assert len(store.records()) == 4
    assert store.contents().warnings == ()


def test_a_file_of_nothing_but_a_torn_line(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.lines.write_bytes(b'{"id": "12')
    assert store.records() == ()
    store.append(record([20.0]), images())
    assert len(store.lines.read_bytes().splitlines()) == 1


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    store = filled(tmp_path)
    lines = store.lines.read_bytes().splitlines(keepends=True)
    store.lines.write_bytes(lines[0] + b"garbage\n" + lines[2])
    with pytest.raises(BadInput, match=r"trials\.jsonl, line 2"):
        store.records()


def test_images_are_there_before_the_line(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.lines.mkdir()
    with pytest.raises(BadInput, match="is a directory"):
        store.append(record([20.0]), images())
    assert list((tmp_path / "images").glob("*.safetensors"))


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_images_that_do_not_fit_are_named_and_leave_no_parts(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with mock.patch("os.replace", full), pytest.raises(BadInput, match="no space left on device; free space"):
        store.append(record([20.0]), images())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_trials_that_fitted_before_the_disk_was_full_are_kept(tmp_path: Path) -> None:
    store = filled(tmp_path, count=1)
    before = store.lines.read_bytes()
    first, second = (pack(record([30.0], examples=(place,))) for place in (8, 9))
    room = len(first.line) + 50  # the second line would be torn

    class Small(io.FileIO):
        """A file on a disk with little room left."""

        def write(self, content: Any, /) -> int:
            left = len(before) + room - self.seek(0, os.SEEK_END)
            return super().write(memoryview(content)[:left]) if left > 0 else full() or 0

    def opened(path: Path, mode: str, **_: int) -> Small:
        return Small(path, mode)

    with mock.patch.object(Path, "open", opened), pytest.raises(BadInput, match="no space left on device"):
        store.append_all([first, second])
    assert store.lines.read_bytes() == before + first.line
    assert store.contents().warnings == ()


def test_what_killed_processes_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    store = filled(tmp_path, count=1)
    dead = tmp_path / "images" / ".x.safetensors.999999999.part"
    alive = tmp_path / f".report.html.{os.getppid()}.part"
    for path in (dead, alive):
        path.write_bytes(b"half")
    with store.exclusive():
        pass
    assert not dead.exists()
    assert alive.exists()
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_places_that_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="expected a place that can be read and written"):
        Store.open(tmp_path / "file")
    with pytest.raises(BadInput, match="expected a folder with trials.jsonl, got no such folder"):
        Store.open(tmp_path / "nowhere", create=False)
    with pytest.raises(BadInput, match="expected a folder with trials.jsonl, got none in it"):
        Store.open(tmp_path, create=False)


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    with mock.patch("os.access", return_value=False), pytest.raises(BadInput, match="got a read-only one"):
        Store.open(tmp_path)


def test_a_crashed_trial_runs_again_and_its_new_line_counts(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.append(record([float("nan")], status="error"), images())
    assert store.contents().finished == frozenset()
    store.append(record([25.0]), images())
    (kept,) = store.records()
    assert kept.status == "converged"


def test_pictures_show_truth_left_of_reconstruction(tmp_path: Path) -> None:
    store = filled(tmp_path, count=1)
    path = store.picture(store.records()[0])
    assert path is not None
    assert path == tmp_path / "pictures" / f"{store.records()[0].id}.png"
    pixels = np.asarray(Image.open(path).convert("L"))
    truth = np.rint(images().truth[0, 0].numpy() * 255)
    side = (pixels.shape[1] - 4) // 2
    factor = side // 6
    assert np.array_equal(pixels[:side:factor, :side:factor], truth)


def test_pixels_are_clamped_and_what_is_not_finite_is_no_gray() -> None:
    image = torch.tensor([[[-0.5, 0.0, 1.0, 1.01, torch.inf, torch.nan]]])
    pixels = np.asarray(Image.open(io.BytesIO(encode_png(image))))[0].tolist()
    assert pixels[:4] == [0, 0, 255, 255]
    assert set(pixels[4:]) <= {190, 225}
    wide = np.asarray(Image.open(io.BytesIO(encode_png(torch.tensor([[[-1.0, 0.0, 1.0]]]), (-1.0, 1.0)))))[0].tolist()
    assert wide == [0, 128, 255]


def test_missing_and_foreign_image_files(tmp_path: Path) -> None:
    store = filled(tmp_path, count=1)
    (kept,) = store.records()
    path = tmp_path / "images" / f"{kept.id}.safetensors"
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadInput, match="pickle"):
        store.images(kept)
    path.write_bytes(b"")  # as a power cut may leave it
    assert store.images(kept) is None
    path.unlink()
    assert store.images(kept) is None
    assert store.picture(kept) is None
