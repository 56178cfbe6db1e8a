"""Differentially private training against plain loops and opacus."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradleak as gl
from gradleak.audits.interrupts import Interrupts
from gradleak.seeds import stage_generator
from gradleak.tasks import Task
from gradleak.training import read_checkpoint
from gradleak.training.courses import SingleWorker
from gradleak.training.defending import Defending
from gradleak.training.private import PrivateSettings, poisson_batch, private_settings
from gradleak.training.spec import Privacy, TrainSpec
from gradleak.training.steps import Examples
from tests.training.test_run import stop_at
from tests.training.tiny import SINGLE, files

EXAMPLES = Examples(torch.randn(120, 64, generator=stage_generator(0, "inputs")), torch.arange(120) % 10)
PRIVATE: dict[str, Any] = {**SINGLE, "optimizer": {"lr": 0.5, "momentum": 0.0}}


def private_course(settings: PrivateSettings, model: nn.Module) -> SingleWorker:
    spec = TrainSpec.model_validate({**PRIVATE, "batch_size": 30, "dp": {"noise_multiplier": 1}})
    return SingleWorker(spec, model, EXAMPLES, Defending((), Task(model, gl.TabularSpace(64), 10)), settings)


def test_a_private_step_is_that_of_the_equations() -> None:
    model = nn.Sequential(nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10)).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = EXAMPLES.inputs.double()
    clip = 4.0
    batch = poisson_batch(120, 0.25, 0, 0)
    assert 10 < len(batch) < 50
    sums = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    norms: list[float] = []
    for position in batch.tolist():
        model.zero_grad()
        functional.cross_entropy(model(inputs[[position]]), EXAMPLES.targets[[position]]).backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()))
        for name, gradient in gradients.items():
            sums[name] += gradient * min(1.0, clip / norms[-1])
    assert min(norms) < clip < max(norms)
    settings = PrivateSettings(clip, 0.0, 0.25, 30, 10, 1e-5)
    course = private_course(settings, model)
    course.examples = Examples(inputs, EXAMPLES.targets)
    course.advance(Interrupts())
    for name, tensor in course.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name] - 0.5 * sums[name] / 30, rtol=1e-5, atol=1e-7)


def test_the_noise_has_the_stated_size_also_where_no_example_was_drawn() -> None:
    model = nn.Linear(64, 10)
    before = model.weight.detach().clone()
    course = private_course(PrivateSettings(2.0, 1.5, 1e-9, 30, 10, 1e-5), model)
    assert course.advance(Interrupts()) == 0.0
    change = (model.weight.detach() - before) / 0.5
    assert float(change.std()) == pytest.approx(2.0 * 1.5 / 30, rel=0.1)


def test_batches_are_poisson_samples() -> None:
    sizes = torch.tensor([float(len(poisson_batch(200, 0.1, 0, unit))) for unit in range(400)])
    assert float(sizes.mean()) == pytest.approx(20, abs=0.7)
    assert float(sizes.var()) == pytest.approx(18, rel=0.25)


def test_epsilon_and_noise_are_those_of_opacus() -> None:
    pytest.importorskip("opacus")
    from opacus.accountants import PRVAccountant

    settings = private_settings(Privacy(epsilon=3.0, clip=1.0), 64, 1438, 46)
    accountant = PRVAccountant()
    for _ in range(46):
        accountant.step(noise_multiplier=settings.noise_multiplier, sample_rate=64 / 1438)
    assert settings.epsilon(46) == pytest.approx(accountant.get_epsilon(1e-5), abs=1e-6)
    assert 2.9 < settings.epsilon(46) <= 3.0
    assert settings.epsilon(0) == 0.0
    assert settings.epsilon(10) < settings.epsilon(46)
    given = private_settings(Privacy(noise_multiplier=0.0, clip=1.0), 64, 1438, 46)
    assert given.epsilon(46) == float("inf")


def test_a_private_training_says_what_it_spent_and_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    spec = {**PRIVATE, "dp": {"noise_multiplier": 0.8, "clip": 1.0}, "defense": {"name": "TopK", "keep": 0.5}}
    outcome = gl.train(spec, out=tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    spent = [row["epsilon"] for row in rows]
    assert spent == sorted(spent)
    assert spent[0] == 0
    client = gl.clients.DPSGD(clip=1.0, noise_multiplier=0.8, sampling_rate=64 / 1438)
    assert spent[-1] == pytest.approx(client.epsilon(rows[-1]["unit"], 1e-5), abs=1e-6)
    privacy = read_checkpoint(outcome.checkpoints[-1]).privacy
    assert privacy is not None
    assert (privacy.epsilon, privacy.noise_multiplier) == (spent[-1], 0.8)
    assert read_checkpoint(outcome.checkpoints[-1]).facts()["epsilon"] == spent[-1]
    for unit in (1, 20):
        gl.train(spec, out=tmp_path / "broken", notify=stop_at(unit))
    gl.train(spec, out=tmp_path / "broken")
    assert files(tmp_path / "broken") == files(tmp_path / "whole")
