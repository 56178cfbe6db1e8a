"""QSGD: unbiased, within its variance bound, and its unit found from what was sent."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradleak as gl
from gradleak.defenses.preimage import Preimage
from gradleak.seeds import stage_generator
from tests.defenses.drawn import update

QSGD = gl.defenses.QSGD


@pytest.mark.parametrize(("levels", "bucket"), [(1, None), (4, None), (16, None), (4, 10)])
def test_unbiased_and_within_the_variance_bound(levels: int, bucket: int | None) -> None:
    true = update()["linear.weight"].flatten()
    size = bucket if bucket is not None else true.numel()
    generator, count = stage_generator(0, "levels"), 3000
    quantize = QSGD(levels, bucket)
    drawn = torch.stack([quantize.apply({"a": true}, "gradient", generator)["a"] for _ in range(count)])
    norms = true.view(-1, size).norm(dim=1).repeat_interleave(size)
    position = true.abs() * levels / torch.where(norms > 0, norms, 1)
    up = position - position.floor()
    std = norms / levels * (up * (1 - up)).sqrt()  # of a draw between two levels
    # Five standard errors: of two hundred entries, some are beyond four.
    assert bool(((drawn.mean(dim=0) - true).abs() <= 5 * std / count**0.5 + 1e-12).all())
    bound = min(size / levels**2, size**0.5 / levels) * float(true.square().sum())
    squared = (drawn - true).square().sum(dim=1)
    assert float(squared.mean()) <= bound
    assert float(squared.mean()) == pytest.approx(float(std.square().sum()), rel=0.1)


def test_by_hand() -> None:
    sent = QSGD(5).apply({"a": torch.tensor([3.0, -4.0, 0.0])}, "gradient", stage_generator(0, "levels"))["a"]
    assert torch.allclose(sent, torch.tensor([3.0, -4.0, 0.0]))  # on levels already: nothing is drawn
    low = QSGD(5).preimage(Preimage.exactly({"a": sent}))
    # Levels 3, 4 and 0 of 5: the unit is 1, found from two levels next to each other.
    assert torch.allclose(low.lower["a"], torch.tensor([2.0, -5.0, -1.0], dtype=torch.float64), atol=1e-4)
    assert torch.allclose(low.upper["a"], torch.tensor([4.0, -3.0, 1.0], dtype=torch.float64), atol=1e-4)


def test_the_unit_is_found_where_the_levels_are_dense() -> None:
    true = update()["linear.weight"]
    sent = QSGD(127).apply({"a": true}, "gradient", stage_generator(0, "levels"))
    known = QSGD(127).preimage(Preimage.exactly(sent))
    reach = (known.upper["a"] - sent["a"]).max()
    assert float(reach) == pytest.approx(float(true.norm()) / 127, rel=1e-3)


def test_of_zeros_nothing_is_known() -> None:
    known = QSGD(2).preimage(Preimage.exactly({"a": torch.zeros(3)}))
    assert known.lower["a"].tolist() == [-math.inf] * 3
    assert known.upper["a"].tolist() == [math.inf] * 3


@given(
    values=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=10),
    levels=st.sampled_from([1, 2, 7, 127, 10_000]),
    bucket=st.sampled_from([None, 1, 3]),
    single=st.booleans(),
    pruned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_true_value_lies_in_its_interval(
    values: list[float], levels: int, bucket: int | None, single: bool, pruned: bool, seed: int
) -> None:
    tensor = torch.tensor(values, dtype=torch.float32 if single else torch.float64)
    quantize = QSGD(levels, bucket)
    sent = quantize.apply({"a": tensor}, "gradient", stage_generator(seed, "levels"))
    after = Preimage.exactly(sent)
    if pruned:
        prune = gl.defenses.TopK(0.5)
        after = prune.preimage(Preimage.exactly(prune.apply(sent, "gradient", None)))
    known = quantize.preimage(after)
    assert bool((known.lower["a"] <= tensor).all())
    assert bool((tensor <= known.upper["a"]).all())


@pytest.mark.parametrize(
    ("defense", "expected"), [(QSGD(0), "QSGD.levels: expected at least 1"), (QSGD(4, 0), "QSGD.bucket")]
)
def test_settings_out_of_range_are_one_line(defense: gl.defenses.QSGD, expected: str) -> None:
    (line,) = defense.problems()
    assert expected in line
