"""What is consistent is called so."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.consistency import check_consistency
from gradleak.evidence import Evidence
from tests.consistency.planting import MEAN, SPACE, STD, X, Y, normed, scaled, smooth, step, verdict


@pytest.mark.parametrize("make", [smooth, normed])
def test_the_true_update_is_consistent(make: Callable[[], nn.Module]) -> None:
    found = verdict(step(make()), make())
    assert found.consistent
    assert found.causes == ()
    assert found.relative_error < 1e-5
    assert found.scale == pytest.approx(1, abs=1e-5)
    assert set(found.per_layer) == set(dict(make().named_parameters()))
    assert max(found.per_layer.values()) < 1e-4


def test_float64_is_held_to_a_finer_tolerance() -> None:
    # Gradients of one double-precision model, changed by 1e-6: too much for float64, nothing for float32.
    task = gl.Task(smooth().double(), SPACE, 10)
    observation, _ = gl.capture(task, X.double(), Y)
    off = {name: tensor * (1 + 1e-6) for name, tensor in observation.update.tensors.items()}
    assert check_consistency(observation.update, task, X.double(), Y).consistent
    assert not check_consistency(gl.Update(off), task, X.double(), Y).consistent
    assert verdict(scaled(1 + 1e-6)(step(smooth()))).consistent


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", ["narrow", "wide"])
def test_rounded_values_are_consistent_within_their_format(dtype: torch.dtype, stored: str) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in step(smooth()).items()}
    if stored == "wide":
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
    found = verdict(tensors)
    assert found.consistent
    assert str(dtype).removeprefix("torch.") in found.precision
    assert ("every value fits" in found.precision) == (stored == "wide")
    assert found.relative_error > 1e-4
    assert found.tolerance < 0.01
    # The format excuses rounding and nothing else: this network hardly sees its images, and yet they are told apart.
    other = {name: tensor.to(dtype) for name, tensor in step(smooth(), -(X - MEAN) / STD).items()}
    assert not verdict(other).consistent


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [smooth, normed])
def test_low_precision_arithmetic_is_recognized(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    everything = step(make().to(dtype), ((X - MEAN) / STD).to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        parts = step(make())
    for tensors in (everything, parts):
        # Unrounded, as an optimizer that keeps float32 copies leaves them.
        found = verdict({name: tensor.float() * 1.0000001 for name, tensor in tensors.items()}, make())
        assert found.consistent
        assert f"arithmetic in {str(dtype).removeprefix('torch.')}" in found.precision
        assert found.relative_error > 1e-4


def test_a_delta_has_a_free_learning_rate() -> None:
    found = verdict(scaled(-0.05)(step(smooth())), kind="delta")
    assert found.consistent
    assert found.scale == pytest.approx(0.05, rel=1e-4)
    assert "0.05" in found.precision


def test_stated_noise_is_expected_and_other_noise_is_not() -> None:
    task = gl.Task(smooth(), SPACE, 10)
    noise = gl.defenses.GaussianNoise(std=1e-3)
    observation, _ = gl.capture(task, X, Y, defenses=[noise], seed=11)
    assert check_consistency(observation.update, task, X, Y, defenses=[noise]).consistent
    less = check_consistency(observation.update, task, X, Y, defenses=[gl.defenses.GaussianNoise(std=1e-4)])
    assert not less.consistent
    evidence = Evidence(observation.update, gl.ThreatModel(), gl.clients.Gradient(), (noise,))
    assert check_consistency(evidence, task, X, Y).consistent
