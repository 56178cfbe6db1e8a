"""Signs: zero stays zero, and the law is a half line at an unknown scale."""

import math

import pytest
import torch

import gradleak as gl
from gradleak.defenses.applying import response
from gradleak.defenses.preimage import Preimage

Sign = gl.defenses.Sign
TRUE = {"a": torch.tensor([2.0, -0.5, 0.0, 1.5], dtype=torch.float64)}


def test_by_hand() -> None:
    assert Sign().apply(TRUE, "gradient", None)["a"].tolist() == [1.0, -1.0, 0.0, 1.0]
    assert Sign(scaled=True).apply(TRUE, "delta", None)["a"].tolist() == [1.0, -1.0, 0.0, 1.0]  # the mean is 1
    assert Sign(scaled=True).apply({"a": 3 * TRUE["a"]}, "gradient", None)["a"].tolist() == [3.0, -3.0, 0.0, 3.0]
    assert Sign().problems() == []


@pytest.mark.parametrize("scaled", [False, True])
def test_half_lines_and_the_scale(scaled: bool) -> None:
    sign, inf = Sign(scaled), math.inf
    known = sign.preimage(Preimage.exactly(sign.apply({"a": 3 * TRUE["a"]}, "gradient", None)))
    assert known.lower["a"].tolist() == [0.0, -inf, 0.0, 0.0]
    assert known.upper["a"].tolist() == [inf, 0.0, 0.0, inf]
    assert known.sizes is not None
    assert float(known.sizes["a"]) == (3.0 if scaled else 1.0)


def test_a_shorter_update_with_a_wrong_sign_is_as_wrong() -> None:
    sent = Sign().apply(TRUE, "gradient", None)
    respond = response([Sign()], sent, "gradient")
    wrong = {"a": TRUE["a"] * torch.tensor([1.0, -1.0, 1.0, 1.0])}
    misfits = [(respond({"a": factor * wrong["a"]})["a"] - sent["a"]) for factor in (1.0, 1e-6)]
    assert torch.allclose(misfits[0], torch.tensor([0.0, 0.5, 0.0, 0.0], dtype=torch.float64))
    assert torch.allclose(misfits[0], misfits[1])
