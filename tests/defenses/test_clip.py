"""Clipping: the norm by scope, and gradients at every norm."""

import math
from dataclasses import replace

import pytest
import torch

import gradleak as gl
from gradleak.defenses.preimage import Preimage
from tests.defenses.drawn import update

Clip = gl.defenses.Clip


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([tensor.double().flatten() for tensor in tensors.values()]).norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_norm_by_scope(dtype: torch.dtype) -> None:
    true = update(dtype=dtype)
    sent = Clip(0.5).apply(true, "gradient", None)
    factor = 0.5 / norm(true)
    assert norm(sent) == pytest.approx(0.5, rel=1e-6)
    for name, tensor in true.items():
        assert torch.allclose(sent[name], factor * tensor, rtol=1e-6)
        assert sent[name].dtype == dtype
    by_layer = Clip(0.5, scope="layer").apply(true, "gradient", None)
    for name, tensor in true.items():
        assert norm({name: by_layer[name]}) == pytest.approx(min(0.5, norm({name: tensor})), rel=1e-6)


def test_an_update_within_the_norm_is_sent_as_it_is() -> None:
    true = update()
    for limit in (math.inf, 1.001 * norm(true)):
        for name, tensor in Clip(limit).apply(true, "gradient", None).items():
            assert torch.equal(tensor, true[name])


def test_gradient_is_that_of_the_formula_and_finite_at_zero() -> None:
    def clipped(vector: torch.Tensor) -> torch.Tensor:
        return Clip(0.5).apply({"a": vector}, "gradient", None)["a"]

    vector = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clipped, (vector,))
    zero = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(torch.func.jacrev(clipped)(zero), torch.eye(2, dtype=torch.float64))


def test_norms_whose_square_no_float32_holds() -> None:
    tensors = {"a": torch.tensor([3e-30, 4e-30]), "b": torch.zeros(1)}
    assert torch.allclose(Clip(5e-31).apply(tensors, "gradient", None)["a"], tensors["a"] / 10)
    huge = {"a": torch.tensor([3e30, 4e30])}
    assert torch.allclose(Clip(5.0).apply(huge, "gradient", None)["a"], torch.tensor([3.0, 4.0]))


def test_nothing_is_said_but_of_unknown_scales() -> None:
    known = Preimage.exactly({"a": torch.ones(2)})
    assert Clip(1.0).preimage(known) is None
    scale_free = replace(known, sizes={"a": torch.tensor(1.0)})
    assert Clip(1.0).preimage(scale_free) is scale_free


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        (Clip(0.0), "Clip.norm: expected a norm above 0, got 0.0"),
        (Clip(-1.0), "got -1.0"),
        (Clip(math.nan), "got nan"),
        (Clip(1.0, scope="row"), "Clip.scope: expected 'global' or 'layer', got 'row'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_settings_out_of_range_are_one_line(defense: gl.defenses.Clip, expected: str) -> None:
    (line,) = defense.problems()
    assert expected in line
