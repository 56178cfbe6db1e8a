"""Intervals: what zero means in them, how they grow, and the unit behind exact values."""

import math

import torch
from torch import Tensor

import gradleak as gl
from gradleak.defenses.preimage import Preimage, may_be_zero, outward
from gradleak.defenses.spacing import largest_unit

INF = math.inf


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_an_end_at_zero_is_open_unless_both_are() -> None:
    lower, upper = row(0, 0, -1, -1, -INF, 2), row(0, 1, 0, 1, INF, 3)
    assert may_be_zero(lower, upper).tolist() == [True, False, False, True, True, False]


def test_a_known_sign_is_never_lost() -> None:
    lower, upper = outward(row(1, -2, -1, 0, 0, -INF), row(2, -1, 1, 3, 0, 0), torch.tensor(5.0), torch.tensor(INF))
    assert lower.tolist() == [0, -7, -6, 0, -5, -INF]
    assert upper.tolist() == [INF, 0, INF, INF, INF, 0]


def test_what_may_have_been_sent_as_zero_may_have_been_anything() -> None:
    cone = Preimage({"a": row(0, 0, -INF, -INF)}, {"a": row(0, INF, 0, INF)}, sizes={"a": torch.tensor(2.0)})
    known = cone.without_zeros()
    assert known.lower["a"].tolist() == [-INF, 0, -INF, -INF]
    assert known.upper["a"].tolist() == [INF, INF, 0, INF]
    assert known.sizes is cone.sizes


def test_violation_is_the_signed_distance_at_the_known_size() -> None:
    interval = Preimage({"a": row(-1, 0)}, {"a": row(1, INF)})
    assert interval.violation({"a": row(3, -2)})["a"].tolist() == [2, -2]
    assert interval.violation({"a": row(-0.5, 2)})["a"].tolist() == [0, 0]
    cone = Preimage({"a": row(0, 0)}, {"a": row(INF, INF)}, sizes={"a": torch.tensor(2.0)})
    assert cone.violation({"a": row(30, -10)})["a"].tolist() == [0, -1]  # the mean size is 20, made to be 2
    assert cone.violation({"a": row(0, 0)})["a"].tolist() == [0, 0]


def test_unit_behind_multiples_with_rounding_errors() -> None:
    levels = row(3, -3, 5, 6, 6, 0)
    noisy = 0.1 * levels * (1 + row(1, -1, 1, -1, 1, 1) * 2.0**-24)
    assert abs(float(largest_unit(noisy, noisy, 0.0)) - 0.1) < 1e-5
    assert float(largest_unit(noisy, noisy, 0.0)) >= 0.1  # never too small
    # The multiples of 3 alone tell no more than 3 units; an inexact value no more than that it is none less.
    assert abs(float(largest_unit(row(3, -6), row(3, -6), 0.0)) - 3) < 1e-4
    assert float(largest_unit(row(-INF, 1), row(INF, 2), 0.0)) == 2
    assert float(largest_unit(row(-INF, 0), row(INF, 0), 0.0)) == INF


def test_a_lost_largest_entry_leaves_cells_and_signs() -> None:
    # Levels 1, -2 and 60 of an int8 whose largest entry was not drawn: the step is at most 1, the smallest distance.
    after = Preimage({"a": row(-INF, 1, -2, 60)}, {"a": row(INF, 1, -2, 60)})
    known = gl.defenses.Quantize("int8", rounding="stochastic").preimage(after)
    assert torch.allclose(known.lower["a"], row(-INF, 0, -3, 59), atol=1e-3)
    assert torch.allclose(known.upper["a"], row(INF, 2, -1, 61), atol=1e-3)
