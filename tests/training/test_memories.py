"""Error feedback in the loop of a training: what is held back is sent later, and outlives an interrupt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gradleak as gl
from gradleak.training.defending import Defending
from gradleak.training.memories import Memories
from gradleak.training.places import RESUME
from tests.training.test_run import stop_at
from tests.training.tiny import FEDERATED, SINGLE, files


def test_every_sender_has_a_memory_of_its_own_and_loses_nothing() -> None:
    task = gl.Task(torch.nn.Linear(6, 3), gl.TabularSpace(6), 3)
    defending, memories = Defending((gl.defenses.DGC(keep=0.25, momentum=0.0),), task), Memories()
    total = {sender: torch.zeros(8) for sender in (0, 1)}
    given = {sender: torch.zeros(8) for sender in (0, 1)}
    for number in range(10):
        for sender in total:
            update = torch.randn(8, generator=torch.Generator().manual_seed(10 * number + sender))
            given[sender] += update
            sent = memories.sent(defending, {"w": update}, "gradient", None, number, sender)["w"]
            assert int((sent != 0).sum()) == 2
            total[sender] += sent
    for sender in total:
        kept = memories.tensors()[f"memory/{sender}/0/10/residual/w"]
        torch.testing.assert_close(total[sender] + kept, given[sender])
    other = Memories()
    other.go_on(memories.tensors())
    again = [entry.sent(defending, {"w": torch.ones(8)}, "gradient", None, 0, 1)["w"] for entry in (memories, other)]
    assert torch.equal(*again)


@pytest.mark.parametrize("spec", [{**SINGLE, "workers": 2}, FEDERATED], ids=["workers", "federated"])
def test_a_training_that_is_interrupted_goes_on_with_what_was_held_back(spec: dict[str, Any], tmp_path: Path) -> None:
    spec = {**spec, "defense": [{"name": "DGC", "keep": 0.1, "warmup": [0.25]}, {"name": "GaussianNoise", "std": 1e-3}]}
    gl.train(spec, out=tmp_path / "whole")
    for unit in (1, 3):
        gl.train(spec, out=tmp_path / "broken", notify=stop_at(unit))
        kept = load_file(tmp_path / "broken" / RESUME)
        places = {name.split("/")[2] for name in kept if name.startswith("memory/")}
        assert places == {"0"}  # the noise, in place 1, remembers nothing
    gl.train(spec, out=tmp_path / "broken")
    assert files(tmp_path / "broken") == files(tmp_path / "whole")
    gl.train({**spec, "defense": {"name": "TopK", "keep": 0.1, "scope": "layer"}}, out=tmp_path / "forgetful")
    assert files(tmp_path / "forgetful") != files(tmp_path / "whole")
