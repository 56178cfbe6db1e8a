"""Defenses that nobody named are recognized."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradleak.seeds import stage_generator
from tests.consistency.planting import Tensors, perhaps, proven, smooth, step, verdict


def noisy(draw: Callable[[tuple[int, ...], torch.Generator], Tensor]) -> Tensors:
    generator = stage_generator(0, "noise")
    return {name: tensor + 1e-3 * draw(tuple(tensor.shape), generator) for name, tensor in step(smooth()).items()}


def test_gaussian_noise() -> None:
    found = verdict(noisy(lambda shape, generator: torch.randn(shape, generator=generator)))
    assert perhaps(found) == ["noise"]
    assert "Gaussian noise of standard deviation 0.00101 " in found.causes[0].explanation  # 0.001 within 1 %


def test_laplace_noise() -> None:
    def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        one, other = (-torch.rand(shape, generator=generator).clamp(min=1e-7).log() for _ in range(2))
        return one - other  # the difference of two exponential variables

    found = verdict(noisy(draw))
    assert perhaps(found) == ["noise"]
    assert "Laplace noise" in found.causes[0].explanation


def test_pruning() -> None:
    kept = {name: tensor.abs() >= tensor.abs().median() for name, tensor in step(smooth()).items()}
    found = verdict({name: tensor * kept[name] for name, tensor in step(smooth()).items()})
    assert proven(found) == ["sparsified"]
    assert "50 %" in found.causes[0].explanation


def test_signs() -> None:
    assert perhaps(verdict({name: tensor.sign() for name, tensor in step(smooth()).items()})) == ["signs"]


def test_quantized_to_few_values() -> None:
    steps = {name: tensor.abs().max() / 7 for name, tensor in step(smooth()).items()}
    tensors = {name: (tensor / steps[name]).round() * steps[name] for name, tensor in step(smooth()).items()}
    assert "quantized" in perhaps(verdict(tensors))
