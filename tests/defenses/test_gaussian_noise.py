"""Gaussian noise: its law, and its randomness."""

import torch

import gradleak as gl
from gradleak.seeds import stage_generator
from tests.problems import images, labels, small_lenet


def test_moments_and_independence_of_equal_shapes() -> None:
    zeros = {"a": torch.zeros(300, 300, dtype=torch.float64), "b": torch.zeros(300, 300, dtype=torch.float64)}
    noisy = gl.defenses.GaussianNoise(std=0.5).apply(zeros, "gradient", stage_generator(0, "noise"))
    count = 90_000
    for tensor in noisy.values():
        assert abs(float(tensor.mean())) < 4 * 0.5 / count**0.5
        assert abs(float(tensor.std()) - 0.5) < 4 * 0.5 / (2 * count) ** 0.5
    correlation = float((noisy["a"] * noisy["b"]).mean()) / 0.25
    assert abs(correlation) < 4 / count**0.5


def test_zero_noise_and_no_generator_are_the_identity() -> None:
    tensors = {"a": torch.rand(5)}
    for std, generator in ((0.0, stage_generator(0, "noise")), (1.0, None)):
        same = gl.defenses.GaussianNoise(std=std).apply(tensors, "gradient", generator)
        assert torch.equal(same["a"], tensors["a"])


def test_capture_draws_from_the_seed_and_the_position() -> None:
    task, noise = small_lenet(), gl.defenses.GaussianNoise(std=1.0)

    def noise_of(count: int, seed: int) -> torch.Tensor:
        noisy = gl.capture(task, images(1), labels(1), defenses=[noise] * count, seed=seed)[0].update.tensors
        clean = gl.capture(task, images(1), labels(1))[0].update.tensors
        last = list(clean)[-1]
        return noisy[last] - clean[last]

    assert torch.equal(noise_of(1, seed=0), noise_of(1, seed=0))
    assert not torch.equal(noise_of(1, seed=0), noise_of(1, seed=1))
    assert not torch.allclose(noise_of(2, seed=0), 2 * noise_of(1, seed=0))  # the second draw is not the first again
