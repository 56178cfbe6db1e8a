"""What cannot be used is refused at the door: one line for each problem, exit code 2, nothing unpickled or written."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import gradleak as gl
from gradleak.zoo.models import load_weights
from tests.cli.factories import CLASSES, batch, net, write_update
from tests.cli.running import Done, run

MODEL = ("--model", "tests.cli.factories:net")
FOREIGN = ("--kind", "gradient", "--input-shape", "1,6,6", "--num-classes", CLASSES, "--batch-size", 1)


def refused(done: Done, *expected: str) -> None:
    """Exit code 2, nothing on standard output, and one line for each expected problem that holds its words."""
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert lines == done.problems, done.err
    assert len(lines) == len(expected), done.err
    for line, words in zip(lines, expected, strict=True):
        assert words in line
        assert "expected" in line
        assert "got" in line
        assert ";" in line  # after it: what to do


@pytest.fixture
def update(tmp_path: Path) -> Path:
    write_update(tmp_path / "update.safetensors")
    return tmp_path / "update.safetensors"


def attack(path: Path, *options: object) -> Done:
    """An attack that would write a folder; the folder must not be there afterwards."""
    out = path.parent / "found"
    done = run(
        "attack", path, *(MODEL if "--model" not in options else ()), *options, "--max-evaluations", 2, "--out", out
    )
    assert not out.exists()
    assert not [entry for entry in path.parent.iterdir() if entry.name.startswith(".")]
    return done


def foreign(folder: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


# ---- files -------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    refused(attack(tmp_path / "none.safetensors"), "none.safetensors")


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    refused(run("attack", tmp_path, *MODEL), "a folder")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(update: Path, share: float) -> None:
    content = update.read_bytes()
    update.write_bytes(content[: int(share * len(content))])
    refused(attack(update), str(update))


def test_file_of_another_format(update: Path) -> None:
    update.write_text("a,b\n1,2\n" * 20, encoding="utf-8")
    refused(attack(update), str(update))


def test_kind_must_be_said_for_a_foreign_file(update: Path) -> None:
    refused(attack(foreign(update.parent, load_file(update))), "add --kind gradient or delta")


def test_shape_and_classes_must_be_said_for_a_foreign_file(update: Path) -> None:
    done = attack(foreign(update.parent, load_file(update)), "--kind", "gradient")
    refused(done, "add --num-classes", "add --input-shape")


# ---- tensors -----------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def with_entry(name: str, value: float) -> Change:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[name].view(-1)[0] = value
        return tensors

    return change


TENSORS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nan": (with_entry("linear.bias", float("nan")), ("update[linear.bias]: expected finite values, got 1 NaN",)),
    "infinite": (with_entry("linear1.weight", float("inf")), ("update[linear1.weight]: expected finite values",)),
    "missing": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "linear1.bias"},
        ("update[linear1.bias]: expected a tensor of shape [8], got none",),
    ),
    "extra": (lambda tensors: {**tensors, "more": torch.ones(2)}, ("update[more]: expected only trained parameters",)),
    "misshaped": (
        lambda tensors: {**tensors, "linear.bias": torch.ones(7)},
        ("update[linear.bias]: expected shape [4], got [7]",),
    ),
    "integer": (
        lambda tensors: {**tensors, "linear.bias": torch.ones(4, dtype=torch.int32)},
        ("update[linear.bias]: expected real floating-point values, got torch.int32",),
    ),
    "complex": (
        lambda tensors: {**tensors, "linear.bias": torch.ones(4, dtype=torch.complex64)},
        ("update[linear.bias]: expected real floating-point values, got torch.complex64",),
    ),
    "several": (
        lambda tensors: {"linear.bias": torch.ones(7), "linear.weight": tensors["linear.weight"]},
        ("update[linear1.weight]", "update[linear1.bias]", "update[linear.bias]"),
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit(update: Path, name: str) -> None:
    change, expected = TENSORS[name]
    refused(attack(foreign(update.parent, change(load_file(update))), *FOREIGN), *expected)


@pytest.mark.parametrize("name", ["nan", "integer", "complex"])
def test_check_refuses_values_that_cannot_be_compared(update: Path, name: str) -> None:
    change, expected = TENSORS[name]
    path = foreign(update.parent, change(load_file(update)))
    inputs, targets = batch(1)
    save_file({"inputs": inputs, "targets": targets}, update.parent / "data.safetensors")
    refused(run("check", path, *MODEL, *FOREIGN, "--data", update.parent / "data.safetensors"), *expected)


# ---- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--batch-size", 0), ["--batch-size: expected at least 1, got 0"]),
        (("--num-classes", 5), ["expected outputs of shape [N, 5], got ['N', 4]"]),
        (("--num-classes", 1), ["num_classes: expected at least 2, got 1"]),
        (("--input-shape", "1,7,7"), ["expected it to accept an input of shape [1, 7, 7]"]),
        (("--input-shape", "6,6"), ["image shape"]),
        (("--input-shape", "1,a,6"), ["--input-shape: expected whole numbers"]),
        (("--input-shape", "36", "--mean", "0.5"), ["--mean, --std: expected images"]),
        (("--std", "0"), ["std: expected positive"]),
        (("--mean", "0.1,0.2"), ["mean: expected 1 or 1 values, got 2"]),
        (("--labels", "9"), ["targets: expected classes 0..3"]),
        (("--labels", "1,2"), ["targets"]),
        (("--labels", "1,2", "--batch-size", 3), ["--labels: expected 3"]),
        (("--kind", "weights"), ["--kind: expected gradient or delta"]),
        (("--kind", "delta"), ["update kind: expected 'gradient'"]),
        (("--mode", "test", "--dropout", "on", "--batch-size", -1), ["--mode", "--dropout", "--batch-size"]),
        (("--attack", "guess", "--restarts", 0), ["--attack: expected one of auto, ", "--restarts"]),
        (("--max-seconds", 0), ["--max-seconds"]),
        (("--model", "lenet"), ["--model: expected package.module:factory or one of lenet-dlg"]),
        (("--model", "lenet-dlg", "--input-shape", "36"), ["--model lenet-dlg: expected images"]),
    ],
)
def test_options_out_of_range(update: Path, options: tuple[object, ...], expected: list[str]) -> None:
    refused(attack(update, *options), *expected)


@pytest.mark.parametrize(
    ("factory", "got"),
    [
        ("tests.cli.factories:raises", "FileNotFoundError: no checkpoint at epoch 9; "),
        ("tests.cli.factories:none", "AttributeError: module 'tests.cli.factories' has no attribute 'none'; "),
        ("tests.cli.no_factories:net", "ModuleNotFoundError: No module named 'tests.cli.no_factories'; "),
        ("tests.cli.factories:no_module", "torch.nn.Module from the factory, got dict; "),
        ("tests.cli.factories:leaves_the_program", "SystemExit: usage: train.py DATA; "),
        ("tests.cli.factories:random", "a factory that draws new ones at each call; add --weights"),
        ("tests.cli.factories:", "AttributeError: "),
        (":net", "ValueError: Empty module name; "),
    ],
)
def test_a_factory_that_gives_no_model(update: Path, factory: str, got: str) -> None:
    refused(attack(update, "--model", factory), got)


def test_weights_that_do_not_fit(update: Path) -> None:
    weights = net().state_dict()
    del weights["linear.bias"]
    save_file({**weights, "more": torch.ones(1)}, update.parent / "weights.safetensors")
    refused(attack(update, "--weights", update.parent / "weights.safetensors"), "'linear.bias'", "'more'")


def test_a_folder_with_content_is_left_as_it_is(update: Path) -> None:
    out = update.parent / "old"
    out.mkdir()
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    refused(run("attack", update, *MODEL, "--out", out), "expected a new or empty folder, got a folder with content")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    refused(run("attack", update, *MODEL, "--out", out / "notes.txt"), "got a file")
    refused(run("attack", update, *MODEL, "--out", out / "notes.txt" / "found"), "expected a place to write to")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--data", "none.npz"), "none.npz"),
        (("--data", "digits", "--indices", "x"), "--indices"),
        (("--data", "photographs", "--indices", "0"), "inputs: expected images of shape [N, 1, 6, 6]"),
    ],
)
def test_data_that_cannot_be_the_batch(update: Path, options: tuple[str, ...], expected: str) -> None:
    refused(run("check", update, *MODEL, *options), expected)


# ---- pickles -----------------------------------------------------------------------------------------------------


class Planted:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def pickle_bytes(marker: Path) -> bytes:
    """A pickle that calls os.mkdir, in the opcodes of protocol 2."""
    path = str(marker).encode()
    return b"\x80\x02cos\nmkdir\nX" + len(path).to_bytes(4, "little") + path + b"\x85R."


def plain(path: Path, marker: Path) -> None:
    path.write_bytes(pickle_bytes(marker))


def torch_saved(path: Path, marker: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_bytes(marker))
        archive.writestr("archive/version", "3\n")


def array_of_objects(path: Path, marker: Path) -> None:
    objects = np.empty(1, dtype=object)
    objects[0] = Planted(marker)
    with path.open("wb") as file:
        np.savez(file, inputs=objects, targets=np.zeros(1, dtype=np.int64))


def unpickle(path: Path) -> None:
    """What a careless reader does, in another process."""
    script = f"""
import pickle, zipfile, numpy
path = {str(path)!r}
if not zipfile.is_zipfile(path):
    pickle.load(open(path, "rb"))
elif "archive/data.pkl" in zipfile.ZipFile(path).namelist():
    pickle.loads(zipfile.ZipFile(path).read("archive/data.pkl"))
else:
    numpy.load(path, allow_pickle=True)["inputs"]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


PICKLES = (plain, torch_saved, array_of_objects)


@pytest.mark.parametrize("plant", PICKLES)
@pytest.mark.parametrize("place", ["update", "weights", "data"])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pkl"])
def test_a_pickle_is_never_opened(update: Path, place: str, plant: Callable[[Path, Path], None], suffix: str) -> None:
    marker = update.parent / "was-unpickled"
    planted = update.parent / f"planted{suffix}"
    plant(planted, marker)
    files = {"update": update, "weights": None, "data": "digits", place: planted}
    weights = () if files["weights"] is None else ("--weights", files["weights"])
    done = run("check", files["update"], *MODEL, *weights, "--data", files["data"], "--indices", "0")
    assert done.code == 2
    assert len(done.problems) == 1
    assert "planted" in done.problems[0]
    assert not marker.exists()


@pytest.mark.parametrize("plant", PICKLES)
def test_the_planted_pickles_work(tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    plant(tmp_path / "planted", tmp_path / "was-unpickled")
    unpickle(tmp_path / "planted")
    assert (tmp_path / "was-unpickled").is_dir()


# ---- the real program --------------------------------------------------------------------------------------------


def test_the_program_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(gl.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "gradleak", "attack", "none.safetensors", "--model", "lenet-dlg"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: none.safetensors: expected")


def test_weights_written_here_would_load(tmp_path: Path) -> None:
    # The refusals above mean something only if a good file passes.
    save_file(net().state_dict(), tmp_path / "weights.safetensors")
    assert load_weights(net(), tmp_path / "weights.safetensors")
