"""SIGKILL in the middle of the longer computations beside trials: the same command ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gradleak.audits.prices import FILE, FOLDER, read_prices
from gradleak.learning.run import HISTORY, INVERTER, RESUME
from tests.cli.running import run

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL"),
]


def killed(words: tuple[object, ...], ready: Callable[[], bool]) -> None:
    """Run a command in a process of its own, which is killed as soon as something is there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gradleak", *map(str, words)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def test_an_audit_killed_while_it_learns_its_prices_ends_with_the_same_prices(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    price = {"epochs": 40, "examples": 400, "batch_size": 32, "seeds": 2}
    document = {"trials": 1, "model": {"name": "mlp", "settings": {"hidden": [16]}}, "data": "digits"}
    document |= {"attack": "linear_layer", "defense": ["none", {"name": "TopK", "keep": 0.1}], "price": price}
    spec.write_text(json.dumps({**document, "run": {"backend": "inprocess"}}))
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def in_the_second_training() -> bool:
        histories = [lines(path) for path in (parts / FOLDER).glob("*/history.jsonl")] if parts.exists() else []
        return lines(parts / FILE) == 1 and len(histories) == 2 and min(histories) >= 4

    killed(("audit", spec, "--out", parts), in_the_second_training)
    assert len(read_prices(parts)) == 1
    before = (parts / FILE).read_bytes()
    for out in (parts, whole):
        assert run("audit", spec, "--out", out).code == 0
    assert (parts / FILE).read_bytes().startswith(before)
    found, expected = ([one.model_dump(exclude={"seconds"}) for one in read_prices(out)] for out in (parts, whole))
    assert len(expected) == 4
    assert found == expected
    for path in (whole / FOLDER).glob("*/*.safetensors"):  # the weights, whose accuracy it is
        assert (parts / path.relative_to(whole)).read_bytes() == path.read_bytes()


def test_an_inverter_whose_training_is_killed_has_the_same_bits(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = ("learn", "--model", "lenet-dlg", "--data", "digits", "--epochs", 6, "--hidden", 16, "--features", 256)
    words += ("--defense", "TopK keep=0.1", "--save-every", 0.01, "--out")
    killed((*words, parts), lambda: (parts / RESUME).exists() and lines(parts / HISTORY) >= 1)
    assert not (parts / INVERTER).exists()
    for out in (parts, whole):
        done = run(*words, out)
        assert done.code == 0, done.err
    assert (parts / INVERTER).read_bytes() == (whole / INVERTER).read_bytes()
    looks = [[json.loads(line) for line in (out / HISTORY).read_text().splitlines()] for out in (parts, whole)]
    assert [untimed(look) for look in looks[0]] == [untimed(look) for look in looks[1]]


def untimed(look: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in look.items() if name != "seconds"}
