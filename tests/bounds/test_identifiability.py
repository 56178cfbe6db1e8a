"""Networks whose free directions are known are found out exactly."""

import math

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.bounds import identifiability, pictures
from gradleak.zoo.models import lenet
from tests.problems import images, labels, small_lenet


class Averaged(nn.Module):
    """A mean over colors before anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = lenet(10, 1, input_size=8)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.rest(pixels.mean(dim=1, keepdim=True))


class Pooled(nn.Module):
    """A mean over 2x2 pixels before anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = lenet(10, 3, input_size=4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.rest(nn.functional.avg_pool2d(pixels, 2))


def task_of(model: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> gl.Task:
    return gl.Task(model.double(), gl.ImageSpace(shape), num_classes=10)


@pytest.mark.parametrize(("model", "count"), [(Averaged(), 1), (Pooled(), 2)], ids=["colors", "pixels"])
def test_the_null_space_is_that_of_what_comes_first(model: nn.Module, count: int) -> None:
    shape = (3, 8, 8)
    found = identifiability(task_of(model), images(count, shape), torch.arange(count))
    seen = count * (64 if isinstance(model, Averaged) else 48)
    assert (found.status, found.rank, found.free) == ("free", seen, count * 192 - seen)
    assert found.sentences[0].startswith(f"At least {found.free} directions stay free: rank {seen}")
    flat = found.directions.flatten(1)
    assert found.directions.shape == (found.free, count, *shape)
    torch.testing.assert_close(flat @ flat.T, torch.eye(found.free, dtype=torch.float64))
    every = found.directions.flatten(0, 1)
    left = every.mean(dim=1) if isinstance(model, Averaged) else nn.functional.avg_pool2d(every, 2)
    assert float(left.abs().max()) < 1e-12
    # As many independent directions as the null space has dimensions, all in it: they are all of it.
    share = 2 / 3 if isinstance(model, Averaged) else 3 / 4
    torch.testing.assert_close(found.free_share, torch.full((count, *shape), share, dtype=torch.float64))
    roughness = found.directions.diff(dim=-1).square().flatten(1).sum(dim=1)
    roughness += found.directions.diff(dim=-2).square().flatten(1).sum(dim=1)
    assert float(roughness.diff().min()) > -1e-9


def test_full_rank_comes_with_the_precision_it_takes() -> None:
    task, inputs, targets = task_of(lenet(10, 1, input_size=8), (1, 8, 8)), images(1, (1, 8, 8)), labels(1)
    found = identifiability(task, inputs, targets)
    assert (found.status, found.free, len(found.directions)) == ("determined", 0, 0)
    assert found.sentences[0].startswith("This update determines the input, locally: rank 64 of 64")
    assert found.condition == pytest.approx(float(found.singular_values[0] / found.singular_values[-1]))
    # An update with noise of that relative size has a Cramer-Rao floor of one step of 8 bits.
    observation, _ = gl.capture(task, inputs, targets)
    entries = torch.cat([tensor.flatten() for tensor in observation.update.tensors.values()])
    std = found.precision * float(entries.square().mean().sqrt())
    bound = gl.leakage_bound(task, inputs, targets, defenses=(gl.defenses.GaussianNoise(std),), labels="known")
    assert bound.psnr_ceiling == pytest.approx(20 * math.log10(255), abs=1e-6)


def test_noise_is_left_out_and_withheld_layers_count() -> None:
    task, inputs, targets = small_lenet(), images(1), labels(1)
    kept = gl.defenses.DropLayers(("conv*",))
    head = identifiability(task, inputs, targets, defenses=(kept, gl.defenses.GaussianNoise(1.0)))
    plain = identifiability(task, inputs, targets, defenses=(kept,))
    # What is left is the classifier's gradient, which gives away its 192 features and nothing before them.
    assert (head.rank, head.free) == (plain.rank, plain.free) == (192, 768 - 192)
    assert any("Noise is left out" in sentence for sentence in head.sentences)
    assert not any("Noise is left out" in sentence for sentence in plain.sentences)


def test_nothing_and_too_much_are_answers() -> None:
    first = nn.Linear(192, 4)
    dead = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(4, 10))
    with torch.no_grad():
        first.bias.fill_(-1e3)
    found = identifiability(task_of(dead), images(1, (3, 8, 8)), labels(1))
    assert (found.status, found.rank, found.free) == ("nothing", 0, 192)
    assert found.sentences[0] == "This update says nothing about the input: all 192 directions stay free."
    large = identifiability(small_lenet(), images(1), labels(1), exact_unknowns=100)
    assert large.status == "too_large"
    assert large.sentences[0].startswith("Too large for the whole spectrum (768 unknowns")
    assert large.directions.shape == (0, 1, 3, 16, 16)


def test_bad_input_is_refused() -> None:
    with pytest.raises(gl.BadInput, match=r"inputs: expected images"):
        identifiability(small_lenet(), images(1, (1, 16, 16)), labels(1))


def test_pictures_are_gray_where_nothing_moves() -> None:
    directions = torch.zeros(2, 1, 2, 2)
    directions[0, 0, 0, 1], directions[0, 0, 1, 1] = -0.02, 0.01
    shown = pictures(directions)
    torch.testing.assert_close(shown[0, 0], torch.tensor([[0.5, 0.0], [0.5, 0.75]]))
    torch.testing.assert_close(shown[1], torch.full((1, 2, 2), 0.5))
