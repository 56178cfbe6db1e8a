"""Rounding: against torch's own casts, and cells that hold the true value whatever it is."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import gradleak as gl
from gradleak.defenses.applying import defended
from gradleak.defenses.grids import GRIDS, Format
from gradleak.defenses.preimage import Preimage
from gradleak.seeds import stage_generator
from tests.defenses.drawn import update

Quantize = gl.defenses.Quantize
FORMATS: tuple[Format, ...] = get_args(Format)
TYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def spread(count: int, seed: int = 0) -> Tensor:
    """Numbers of all sizes that a float32 has, which torch casts from float32 without rounding twice."""
    generator = stage_generator(seed, "spread")
    normal, power = torch.randn((2, count), generator=generator, dtype=torch.float64)
    return (normal * torch.exp2(20 * power)).float()


@pytest.mark.parametrize("name", TYPES)
def test_nearest_is_the_cast_of_torch(name: Format) -> None:
    grid, kind = GRIDS[name], TYPES[name]
    every = torch.arange(2 ** (8 * kind.itemsize), dtype=torch.int32)
    held = every.to(torch.int16 if kind.itemsize == 2 else torch.uint8).view(kind).double()
    held = held[held.isfinite()].unique()
    assert float(held.max()) == grid.largest
    assert float(held[held > 0].min()) == grid.smallest
    middle = ((held[:-1] + held[1:]) / 2).float()  # ties; exact in float32 for all but the smallest of bf16
    values = torch.cat([spread(20_000), held.float(), middle]).clamp(-grid.largest, grid.largest)
    assert torch.equal(grid.nearest(values.double()), values.to(kind).double() + 0.0)
    assert torch.equal(grid.above(held)[:-1], held[1:])
    assert torch.equal(grid.below(held)[1:], held[:-1])
    assert float(grid.above(held)[-1]) == math.inf


@pytest.mark.parametrize("name", TYPES)
def test_beyond_the_largest_value_the_largest_is_sent(name: Format) -> None:
    most = GRIDS[name].largest
    if name == "bf16":
        return  # holds every float32 but the very largest
    tensors = {"a": torch.tensor([3 * most, -3 * most, 1.0])}
    quantize = Quantize(name, scaled=False)
    sent = quantize.apply(tensors, "gradient", None)
    assert sent["a"].tolist() == [most, -most, 1.0]
    known = quantize.preimage(Preimage.exactly(sent))
    assert known.upper["a"][0] == math.inf
    assert known.lower["a"][1] == -math.inf


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_what_is_sent_lies_on_the_grid_of_its_scope(name: Format, scope: str, rounding: str) -> None:
    quantize = Quantize(name, rounding, scope)  # pyright: ignore[reportArgumentType]  # every pair of words is allowed
    true = update()
    sent = quantize.apply(true, "gradient", stage_generator(0, "rounding"))
    largest = max(float(tensor.abs().max()) for tensor in true.values())
    grid = GRIDS[name]
    for key, tensor in sent.items():
        most = largest if scope == "global" else float(true[key].abs().max())
        levels = tensor / (most / grid.largest if quantize.has_scale else 1)
        assert torch.allclose(levels, grid.nearest(levels), rtol=1e-12, atol=0)
        assert bool((levels.abs() <= grid.largest * (1 + 1e-12)).all())
    if name == "int8" and scope == "layer":  # by hand: 127 levels on either side of the largest entry
        assert {
            round(float(level)) for level in (sent["linear.weight"] / sent["linear.weight"].abs().max() * 127)[3]
        } == {0}
        assert all(float(sent[key].abs().max()) == pytest.approx(float(true[key].abs().max())) for key in true)


def test_int8_by_hand() -> None:
    sent = Quantize("int8").apply({"a": torch.tensor([1.27, -0.014, 0.006, 0.004, 0.0])}, "gradient", None)
    assert torch.allclose(sent["a"], torch.tensor([1.27, -0.01, 0.01, 0.0, 0.0]), atol=1e-7)


@pytest.mark.parametrize("name", FORMATS)
def test_stochastic_rounding_is_right_on_average(name: Format) -> None:
    count = 40_000
    values = torch.tensor([1.0, 0.3, -0.0421, 0.003, 0.0], dtype=torch.float64)
    quantize = Quantize(name, rounding="stochastic")
    sent = quantize.apply({"a": values.expand(count, 5)}, "gradient", stage_generator(0, "rounding"))["a"]
    cells = quantize.preimage(Preimage.exactly({"a": sent}))
    step = (cells.upper["a"] - cells.lower["a"]).amax(dim=0)  # at least the distance of the two values taken
    assert bool(((sent.mean(dim=0) - values).abs() <= 4 * step / 2 / count**0.5 + 1e-12).all())
    assert len(sent[:, 1].unique()) == 2
    assert torch.equal(quantize.apply({"a": values}, "gradient", None)["a"], values)


@settings(max_examples=300)
@given(
    name=st.sampled_from(FORMATS),
    rounding=st.sampled_from(["nearest", "stochastic"]),
    scaled=st.booleans(),
    single=st.booleans(),
    later=st.sampled_from([None, "TopK", "half"]),
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=8),
    power=st.integers(-40, 40),
    seed=st.integers(0, 1000),
)
def test_the_true_value_lies_in_its_cell(
    name: Format,
    rounding: str,
    scaled: bool,
    single: bool,
    later: str | None,
    values: list[float],
    power: int,
    seed: int,
) -> None:
    dtype = torch.float32 if single else torch.float64
    tensor = (torch.tensor(values, dtype=torch.float64) * 2.0**power).to(dtype)
    tensor = torch.where(tensor.isfinite(), tensor, 0)
    quantize = Quantize(name, rounding, scaled=scaled or name.startswith("int"))  # pyright: ignore[reportArgumentType]
    sent = quantize.apply({"a": tensor}, "gradient", stage_generator(seed, "rounding"))
    after = Preimage.exactly(sent)
    if later == "TopK":
        prune = gl.defenses.TopK(0.4)
        after = prune.preimage(Preimage.exactly(prune.apply(sent, "gradient", None)))
    elif later == "half":  # every other entry was lost, and the largest may have been
        lost = torch.arange(len(values)) % 2 == 0
        after = Preimage(
            {"a": torch.where(lost, -torch.inf, sent["a"])}, {"a": torch.where(lost, torch.inf, sent["a"])}
        )
    known = quantize.preimage(after)
    assert bool((known.lower["a"] <= tensor).all())
    assert bool((tensor <= known.upper["a"]).all())


def test_cells_are_no_wider_than_the_grid() -> None:
    tensors = {"a": torch.tensor([127.0, 3.2, 0.3, -8.0], dtype=torch.float64)}
    for rounding, reach in (("nearest", 0.5), ("stochastic", 1.0)):
        known = Quantize("int8", rounding).preimage(  # pyright: ignore[reportArgumentType]
            Preimage.exactly({"a": tensors["a"].round()})
        )
        low, high = known.lower["a"], known.upper["a"]
        assert torch.allclose(high, torch.tensor([127.0, 3 + reach, reach, -8 + reach], dtype=torch.float64))
        assert torch.allclose(low, torch.tensor([127 - reach, 3 - reach, -reach, -8 - reach], dtype=torch.float64))
    exact = torch.tensor([1.0, 1.25, 0.75], dtype=torch.float64)
    cells = Quantize("fp8_e5m2", scaled=False).preimage(Preimage.exactly({"a": exact}))
    # Above 1 the step is 1/4, below it 1/8.
    assert torch.allclose(cells.lower["a"], torch.tensor([1 - 1 / 16, 1.125, 0.6875], dtype=torch.float64))
    assert torch.allclose(cells.upper["a"], torch.tensor([1.125, 1.375, 0.8125], dtype=torch.float64))


def test_order_shows_in_the_result() -> None:
    true, noise, quantize = update(), gl.defenses.GaussianNoise(0.01), Quantize("int4")
    last = defended([noise, quantize], true, "gradient", seed=0)
    first = defended([quantize, noise], true, "gradient", seed=0)
    for name in true:
        assert len(last[name].unique()) <= 15
        assert len(first[name].unique()) == first[name].numel()


def test_a_gradient_vanishes_in_unscaled_fp8() -> None:
    tensors = {"a": torch.full((3,), 1e-4)}
    assert not bool(Quantize("fp8_e4m3", scaled=False).apply(tensors, "gradient", None)["a"].any())
    assert torch.allclose(Quantize("fp8_e4m3").apply(tensors, "gradient", None)["a"], tensors["a"])


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        (Quantize("fp4"), "Quantize.format: expected 'fp16' or"),  # pyright: ignore[reportArgumentType]
        (Quantize("int8", rounding="up"), "got 'up'"),  # pyright: ignore[reportArgumentType]
        (Quantize("int8", scope="row"), "got 'row'"),  # pyright: ignore[reportArgumentType]
        (Quantize("int8", scaled=False), "integers need a scale"),
    ],
)
def test_settings_out_of_range_are_one_line_each(defense: gl.defenses.Quantize, expected: str) -> None:
    (line,) = defense.problems()
    assert expected in line
