"""Inverters learn, go on after an interrupt with the same bits, and refuse what they are not for."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import gradleak as gl
from gradleak.learning import LearnOutcome, LearnProgress, LearnSettings, learn
from gradleak.learning.pairs import choose_features
from gradleak.learning.run import HISTORY, INVERTER, RESUME
from gradleak.learning.simulating import Simulator
from gradleak.seeds import torch_seed
from gradleak.zoo.data import Dataset, load
from gradleak.zoo.models import lenet

SMALL = LearnSettings(epochs=12, lr=3e-3, hidden=(48,), batch_size=64, features=512)
PRUNED = (gl.defenses.TopK(0.1),)
NOISY = (gl.defenses.GaussianNoise(0.01), gl.defenses.TopK(0.1))


@pytest.fixture(scope="module")
def task() -> gl.Task:
    return gl.Task(lenet(10, 1, input_size=8, width=4, seed=0), gl.ImageSpace((1, 8, 8)), 10)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    data = load("digits")
    return data.subset(data.indices(600, seed=0))


@pytest.fixture(scope="module")
def trained(task: gl.Task, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> LearnOutcome:
    out = tmp_path_factory.mktemp("trained")
    return learn(task, digits, out, client=gl.clients.Gradient(), defenses=PRUNED, settings=SMALL)


def stop_at(step: int) -> Callable[[LearnProgress], None]:
    def notify(progress: LearnProgress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return notify


def test_it_beats_every_answer_that_needs_no_update(trained: LearnOutcome) -> None:
    quality = trained.facts.quality
    assert trained.status == "finished"
    assert quality is not None
    assert quality.ssim is None  # too small for the window
    assert quality.psnr is not None
    assert quality.mean_psnr is not None
    assert quality.shuffled_psnr is not None
    assert quality.psnr > quality.mean_psnr + 1
    assert quality.shuffled_psnr < quality.mean_psnr  # answers depend on the update
    assert quality.label_accuracy > 0.9


@pytest.mark.parametrize("defenses", [PRUNED, NOISY], ids=["pruned", "noisy"])
def test_an_interrupted_training_ends_with_the_same_bits(
    task: gl.Task, digits: Dataset, defenses: tuple[gl.defenses.Defense, ...], tmp_path: Path
) -> None:
    data = digits.subset(torch.arange(150))
    settings = replace(SMALL, epochs=2)
    client = gl.clients.Gradient()
    whole = learn(task, data, tmp_path / "whole", client=client, defenses=defenses, settings=settings)
    out = tmp_path / "parts"
    for step in (1, 4):
        part = learn(task, data, out, client=client, defenses=defenses, settings=settings, notify=stop_at(step))
        assert part.status == "interrupted"
        assert not part.path.exists()
        assert (out / RESUME).exists()
    before = (out / HISTORY).read_bytes()
    # A look after the place that was kept, and a line that a kill cut off: both are taken again.
    (out / HISTORY).write_bytes(before + before.replace(b'"step": 3', b'"step": 5') + b'{"st')
    notes: list[str] = []
    settings = replace(settings, save_every=0.0)  # where it is kept changes nothing
    part = learn(
        task,
        data,
        out,
        client=client,
        defenses=defenses,
        settings=settings,
        notify=lambda progress: notes.append(progress.note),
    )
    assert notes[0] == "Going on after step 4 of 6."
    assert part.path.read_bytes() == whole.path.read_bytes()
    rows = [json.loads(line) for line in (out / HISTORY).read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    assert sorted(path.name for path in out.iterdir()) == [".lock", HISTORY, INVERTER]


def test_a_finished_folder_is_left_alone_and_another_training_is_refused_there(
    task: gl.Task, digits: Dataset, trained: LearnOutcome
) -> None:
    before = trained.path.read_bytes()
    out, client = trained.path.parent, gl.clients.Gradient()
    again = learn(task, digits, out, client=client, defenses=PRUNED, settings=SMALL)
    assert again.message == "Everything was trained before."
    assert again.facts == trained.facts
    with pytest.raises(gl.BadInput) as caught:
        learn(task, digits, out, client=client, defenses=NOISY, settings=replace(SMALL, epochs=4))
    assert [problem.split(" = ")[0].split()[-1] for problem in caught.value.problems] == ["defenses", "epochs"]
    assert trained.path.read_bytes() == before


def test_a_file_that_cannot_be_replaced_stays_whole(
    task: gl.Task, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, client = digits.subset(torch.arange(100)), gl.clients.Gradient()
    learn(task, data, tmp_path, client=client, settings=replace(SMALL, epochs=1), notify=stop_at(1))
    before = (tmp_path / RESUME).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(gl.BadInput, match="no space left"):
        learn(task, data, tmp_path, client=client, settings=replace(SMALL, epochs=1))
    assert (tmp_path / RESUME).read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_the_file_says_what_it_is_for(trained: LearnOutcome) -> None:
    with safe_open(trained.path, framework="pt") as file:
        facts = json.loads(file.metadata()["gradleak"])
    assert facts["defenses"] == [{"name": "TopK", "keep": 0.1, "scope": "global"}]
    assert facts["client"]["name"] == "Gradient"
    assert (facts["data"], facts["examples"], facts["held_out_examples"]) == ("digits", 540, 60)
    rows = [json.loads(line) for line in (trained.path.parent / HISTORY).read_text().splitlines()]
    assert rows[-1]["psnr"] == facts["quality"]["psnr"]


@pytest.mark.parametrize(
    ("client", "defenses", "repeats"),
    [
        (gl.clients.Gradient(), (), True),
        (gl.clients.Gradient(), PRUNED, True),
        (gl.clients.Gradient(), NOISY, False),
        (gl.clients.LocalSGD(lr=0.1, epochs=2), PRUNED, True),
    ],
)
def test_fast_updates_are_those_of_captures(
    task: gl.Task,
    digits: Dataset,
    client: gl.clients.Client,
    defenses: tuple[gl.defenses.Defense, ...],
    *,
    repeats: bool,
) -> None:
    made = Simulator(task, client, defenses, digits.inputs, digits.targets)
    assert made.batched  # without it, nothing of this is fast
    assert made.repeats == repeats
    found = made.updates(digits.inputs[:4], digits.targets[:4], seed=7)
    for at in range(4):
        seen, _ = gl.capture(
            task, digits.inputs[at : at + 1], digits.targets[at : at + 1], client=client, defenses=defenses, seed=7 + at
        )
        exact = torch.cat([tensor.flatten() for tensor in seen.update.tensors.values()])
        assert (found[at] - exact).norm() < 1e-3 * exact.norm()


def test_a_model_with_random_dropout_is_simulated_one_by_one(digits: Dataset) -> None:
    with torch_seed(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 10))
    task = gl.Task(model, gl.ImageSpace((1, 8, 8)), 10)
    made = Simulator(task, gl.clients.Gradient(dropout="random"), (), digits.inputs, digits.targets)
    assert not made.batched
    assert not made.repeats
    twice = digits.inputs[:1].repeat(2, 1, 1, 1), digits.targets[:1].repeat(2)
    first, second = made.updates(*twice, seed=0)
    assert not torch.equal(first, second)  # fresh masks for each


def test_features_are_coordinates_that_vary(task: gl.Task, digits: Dataset) -> None:
    made = Simulator(task, gl.clients.Gradient(), PRUNED, digits.inputs, digits.targets)
    features = choose_features(made, digits.inputs, digits.targets, most=50, seed=0)
    assert len(features.indices) == 50
    updates = made.updates(digits.inputs, digits.targets, seed=0)
    assert bool(((updates[:, features.indices] != 0).double().mean(dim=0) > 0.001).all())
    standardized = features.of(updates)
    assert abs(float(standardized.mean())) < 0.1
    assert float(standardized.abs().max()) <= 5


def test_bad_settings_and_data_are_told_at_once(task: gl.Task, digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(gl.BadInput) as caught:
        LearnSettings(epochs=0, lr=-1.0, dropout=1.0, hidden=())
    assert len(caught.value.problems) == 4
    with pytest.raises(gl.BadInput, match="expected inputs of shape"):
        learn(task, load("faces"), tmp_path / "out", client=gl.clients.Gradient())
    assert not (tmp_path / "out").exists()
