"""Laplace noise: its law, its units, and its randomness."""

import math

import pytest
import torch

import gradleak as gl
from gradleak.seeds import stage_generator

COUNT = 90_000


def noise(scale: float, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    zeros = {name: torch.zeros(300, 300, dtype=dtype) for name in ("a", "b")}
    return gl.defenses.LaplaceNoise(scale).apply(zeros, "gradient", stage_generator(0, "noise"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_moments(dtype: torch.dtype) -> None:
    scale = 0.5
    for tensor in noise(scale, dtype).values():
        assert tensor.dtype == dtype
        standard = tensor.double() / scale
        # Moments of the law: E x^2 = 2, E x^4 = 24, E x^8 = 8!; the tolerance is four standard errors.
        assert abs(float(standard.mean())) < 4 * (2 / COUNT) ** 0.5
        assert abs(float(standard.square().mean()) - 2) < 4 * ((24 - 4) / COUNT) ** 0.5
        assert abs(float(standard.pow(4).mean()) - 24) < 4 * ((math.factorial(8) - 24**2) / COUNT) ** 0.5
        assert abs(float(standard.abs().mean()) - 1) < 4 / COUNT**0.5  # 0.798 * sqrt(2) for a Gaussian of its variance


def test_equal_shapes_get_different_noise() -> None:
    drawn = noise(1.0)
    assert abs(float((drawn["a"] * drawn["b"]).mean()) / 2) < 4 / COUNT**0.5


def test_units() -> None:
    for law in (gl.defenses.GaussianNoise, gl.defenses.LaplaceNoise):
        of_variance = law.of_variance(0.09)
        assert isinstance(of_variance, gl.defenses.AddsNoise)
        assert of_variance.noise_std == pytest.approx(0.3)
        assert of_variance.problems() == []
    assert gl.defenses.LaplaceNoise.of_std(0.3).noise_std == pytest.approx(0.3)
    assert gl.defenses.LaplaceNoise(0.3).noise_std == pytest.approx(0.3 * 2**0.5)
    assert gl.defenses.GaussianNoise(0.3).noise_law == "gaussian"
    assert gl.defenses.LaplaceNoise(0.3).noise_law == "laplace"
    assert not isinstance(gl.defenses.TopK(0.5), gl.defenses.AddsNoise)


def test_variance_of_what_is_drawn() -> None:
    zeros = {"a": torch.zeros(COUNT, dtype=torch.float64)}
    for defense, fourth in (
        (gl.defenses.GaussianNoise.of_variance(0.04), 3),
        (gl.defenses.LaplaceNoise.of_variance(0.04), 6),
    ):
        drawn = defense.apply(zeros, "gradient", stage_generator(1, "noise"))["a"]
        assert abs(float(drawn.square().mean()) - 0.04) < 4 * 0.04 * ((fourth - 1) / COUNT) ** 0.5


def test_zero_noise_and_no_generator_are_the_identity() -> None:
    tensors = {"a": torch.rand(5)}
    for scale, generator in ((0.0, stage_generator(0, "noise")), (1.0, None)):
        same = gl.defenses.LaplaceNoise(scale).apply(tensors, "gradient", generator)
        assert torch.equal(same["a"], tensors["a"])


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_noise_out_of_range_is_one_line(value: float) -> None:
    for defense in (
        gl.defenses.LaplaceNoise(value),
        gl.defenses.GaussianNoise(value),
        gl.defenses.LaplaceNoise.of_variance(value),
        gl.defenses.GaussianNoise.of_variance(value),
        gl.defenses.LaplaceNoise.of_std(value),
    ):
        (line,) = defense.problems()
        assert "expected a finite value of at least 0, got" in line
