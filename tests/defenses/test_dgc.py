"""DGC: nothing is lost, rounds follow the algorithm as it is written, and the memory is plain tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import gradleak as gl
from gradleak.defenses import dgc
from gradleak.tensorfiles import read_safetensors
from tests.defenses.drawn import update

DGC = gl.defenses.DGC
ROUNDS = 6


def rounds(defense: gl.defenses.DGC) -> tuple[list[dict[str, Tensor]], list[gl.defenses.Memory]]:
    """What is sent in each round, and the memory after it."""
    memory = defense.start(update())
    sent: list[dict[str, Tensor]] = []
    memories: list[gl.defenses.Memory] = []
    for number in range(ROUNDS):
        one, memory = defense.advance(update(number), memory, number)
        sent.append(one)
        memories.append(memory)
    return sent, memories


def test_what_was_sent_and_what_waits_is_what_momentum_would_have_sent() -> None:
    sent, memories = rounds(DGC(keep=0.05, momentum=0.9, masking=False))
    for name in update():
        velocity = total = torch.zeros_like(update()[name])
        for number in range(ROUNDS):
            velocity = 0.9 * velocity + update(number)[name]
            total = total + velocity
        parts = torch.stack([one[name] for one in sent]).sum(dim=0) + memories[-1].parts["residual"][name]
        assert torch.allclose(parts, total, rtol=1e-12)
        assert torch.allclose(memories[-1].parts["velocity"][name], velocity, rtol=1e-12)


def test_without_momentum_the_updates_themselves_are_conserved_masked_or_not() -> None:
    for masking in (True, False):
        sent, memories = rounds(DGC(keep=0.05, momentum=0.0, masking=masking, scope="global"))
        for name in update():
            total = torch.stack([update(number)[name] for number in range(ROUNDS)]).sum(dim=0)
            parts = torch.stack([one[name] for one in sent]).sum(dim=0) + memories[-1].parts["residual"][name]
            assert torch.allclose(parts, total, rtol=1e-12)


def test_rounds_are_those_of_the_algorithm() -> None:
    defense = DGC(keep=0.1, momentum=0.5, clip=2.0, clients=16, warmup=(0.5, 0.25), warmup_rounds=2)
    sent, memories = rounds(defense)
    moved = {name: torch.zeros_like(tensor) for name, tensor in update().items()}
    waiting = {name: torch.zeros_like(tensor) for name, tensor in update().items()}
    for number, share in enumerate([0.5, 0.5, 0.25, 0.25, 0.1, 0.1]):
        given = update(number)
        norm = torch.cat([tensor.flatten() for tensor in given.values()]).norm()
        for name, tensor in given.items():
            moved[name] = 0.5 * moved[name] + tensor * min(1.0, 0.5 / float(norm))
            waiting[name] = waiting[name] + moved[name]
            kept = round(share * tensor.numel() + 0.499999)
            threshold = waiting[name].abs().flatten().sort(descending=True).values[kept - 1]
            mask = (waiting[name].abs() >= threshold) & (waiting[name] != 0)
            assert torch.allclose(sent[number][name], torch.where(mask, waiting[name], 0), rtol=1e-10)
            moved[name], waiting[name] = torch.where(mask, 0, moved[name]), torch.where(mask, 0, waiting[name])
            assert torch.allclose(memories[number].parts["velocity"][name], moved[name], rtol=1e-10)
            assert torch.allclose(memories[number].parts["residual"][name], waiting[name], rtol=1e-10)


def test_warm_up_of_the_paper() -> None:
    defense = DGC(keep=0.001, warmup=dgc.WARMUP, warmup_rounds=3)
    sparsity = [1 - defense.share(number) for number in (0, 2, 3, 6, 9, 12, 1000)]
    assert sparsity == pytest.approx([0.75, 0.75, 0.9375, 0.984375, 0.996, 0.999, 0.999])


def test_a_capture_is_the_first_round() -> None:
    defense, true = DGC(keep=0.1, clip=0.5), update()
    first, _ = defense.advance(true, defense.start(true), 0)
    for name, tensor in defense.apply(true, "gradient", None).items():
        assert torch.equal(tensor, first[name])


def test_neutral_settings_send_everything_at_once() -> None:
    for sent, memory in zip(*rounds(DGC(keep=1.0, momentum=0.0)), strict=True):
        assert not any(bool(tensor.any()) for tensor in memory.flat().values())
        assert any(bool(tensor.any()) for tensor in sent.values())
    for name, tensor in DGC(keep=1.0).apply(update(), "gradient", None).items():
        assert torch.equal(tensor, update()[name])


def test_memory_goes_through_a_file_and_the_same_rounds_follow(tmp_path: Path) -> None:
    defense = DGC(keep=0.05)
    assert isinstance(defense, gl.defenses.KeepsMemory)
    assert not isinstance(gl.defenses.TopK(0.5), gl.defenses.KeepsMemory)
    sent, memories = rounds(defense)
    file = tmp_path / "memory.safetensors"
    save_file(memories[2].flat(), file)
    memory = gl.defenses.Memory.of_flat(read_safetensors(file)[0])
    again, after = defense.advance(update(3), memory, 3)
    assert all(torch.equal(tensor, sent[3][name]) for name, tensor in again.items())
    assert all(torch.equal(tensor, memories[3].flat()[name]) for name, tensor in after.flat().items())


def test_rounds_change_nothing_that_was_given() -> None:
    defense, given = DGC(keep=0.05), update()
    memory = defense.start(given)
    defense.advance(given, memory, 0)
    assert all(torch.equal(given[name], tensor) for name, tensor in update().items())
    assert not any(bool(tensor.any()) for tensor in memory.flat().values())


def test_settings_out_of_range_are_one_line_each() -> None:
    bad = DGC(keep=0.0, momentum=1.0, clip=0.0, clients=0, warmup=(1.5,), warmup_rounds=0, scope="row")  # pyright: ignore[reportArgumentType]
    lines = bad.problems()
    assert len(lines) == 7
    for part in (
        "DGC.keep",
        "DGC.momentum",
        "DGC.clip",
        "DGC.clients",
        "DGC.warmup:",
        "DGC.warmup_rounds",
        "DGC.scope",
    ):
        assert sum(line.startswith(part) for line in lines) == 1
