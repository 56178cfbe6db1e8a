import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradleak.errors import BadInput
from gradleak.scoring.pairing import in_true_order, pair
from tests.scoring.examples import random_images


def cost_of(reconstructed: Tensor, true: Tensor, pairing: tuple[int, ...]) -> float:
    return float((reconstructed[list(pairing)] - true).double().square().sum())


def test_a_cycle_of_three_is_undone():
    # A swap is its own inverse and would not tell the permutation from its inverse.
    true = random_images(3)
    shuffled = true[[1, 2, 0]]
    pairing = pair(shuffled, true)
    assert pairing.tolist() == [2, 0, 1]
    assert pairing.dtype == torch.int64
    assert torch.equal(shuffled[pairing], true)


@given(st.integers(1, 9).flatmap(lambda count: st.permutations(range(count))), st.integers(0, 2**16))
def test_any_permutation_is_undone(order: list[int], seed: int):
    generator = torch.Generator().manual_seed(seed)
    true = torch.rand(len(order), 5, generator=generator)
    noise = 1e-4 * torch.rand(len(order), 5, generator=generator)
    pairing = pair(true[order] + noise, true)
    assert [order[index] for index in pairing.tolist()] == list(range(len(order)))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_least_total_cost_among_all_permutations(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    true = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    reconstructed = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    best = min(itertools.permutations(range(count)), key=lambda order: cost_of(reconstructed, true, order))
    assert tuple(pair(reconstructed, true).tolist()) == best


def test_one_to_one_even_if_one_guess_is_best_for_all():
    true = torch.tensor([[0.0], [0.1], [0.2]])
    guesses = torch.tensor([[0.1], [5.0], [9.0]])
    assert sorted(pair(guesses, true).tolist()) == [0, 1, 2]


def test_close_examples_far_from_zero_are_told_apart():
    true = 1e6 + torch.tensor([[0.0], [1e-3], [2e-3]], dtype=torch.float64)
    assert pair(true[[2, 0, 1]], true).tolist() == [1, 2, 0]


def test_fewer_reconstructed_than_true():
    true = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    pairing = pair(torch.tensor([[2.9], [1.1]]), true)
    assert pairing.tolist() == [-1, 1, -1, 0]
    ordered = in_true_order(torch.tensor([[2.9], [1.1]]), pairing).flatten().tolist()
    assert [math.isnan(value) for value in ordered] == [True, False, True, False]
    assert ordered[3] == pytest.approx(2.9)


def test_more_reconstructed_than_true_leaves_the_worst_out():
    true = torch.tensor([[0.0], [1.0]])
    assert pair(torch.tensor([[7.0], [1.1], [0.1], [-4.0]]), true).tolist() == [2, 1]


def test_no_reconstructed_example():
    assert pair(torch.zeros(0, 4), torch.zeros(3, 4)).tolist() == [-1, -1, -1]
    assert pair(torch.zeros(3, 4), torch.zeros(0, 4)).tolist() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_unusable_examples_take_what_is_left(bad: float):
    true = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    guesses = torch.tensor([[bad, 1.0], [2.1, 2.0], [0.1, 0.0]], dtype=torch.float64)
    assert pair(guesses, true).tolist() == [2, 0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_unusable_examples_are_left_out_when_there_are_enough(bad: float):
    true = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    guesses = torch.tensor([[bad], [50.0], [-90.0]], dtype=torch.float64)
    assert sorted(pair(guesses, true).tolist()) == [1, 2]


def test_huge_distances_do_not_overflow():
    # 1e154 squared is just below the largest float64: twice that would be infinite, and no assignment feasible.
    true = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    guesses = torch.tensor([[1e154], [math.nan], [0.9]], dtype=torch.float64)
    pairing = pair(guesses, true).tolist()
    assert pairing[1] == 2
    assert sorted(pairing) == [0, 1, 2]


def test_nothing_usable_is_still_one_to_one():
    assert sorted(pair(torch.full((3, 4), math.nan), torch.zeros(3, 4)).tolist()) == [0, 1, 2]


def test_bad_shapes_are_refused():
    with pytest.raises(BadInput, match=r"expected \[4\] as in the truth, got \[5\]"):
        pair(torch.zeros(2, 5), torch.zeros(2, 4))
    with pytest.raises(BadInput) as caught:
        pair(torch.zeros(3), torch.zeros(3))
    assert len(caught.value.problems) == 2
