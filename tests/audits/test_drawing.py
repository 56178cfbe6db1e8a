"""Which examples a batch gets."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gradleak.audits.drawing import REFERENCE, Draw, reference_positions


@given(st.integers(2, 30), st.integers(1, 6), st.integers(1, 5), st.integers(0, 40), st.booleans())
def test_a_batch_has_its_size_and_no_example_twice(
    count: int, size: int, classes: int, batch: int, distinct: bool
) -> None:
    size = min(size, count, *([min(classes, count)] if distinct else []))
    targets = torch.arange(count) % classes
    examples = Draw("data", targets, size, distinct, 0).examples(batch)
    assert len(set(examples)) == len(examples) == size
    assert all(0 <= example < count for example in examples)
    if distinct:
        assert len({int(targets[example]) for example in examples}) == size
    assert examples == Draw("data", targets, size, distinct, 0).examples(batch)


def test_every_example_comes_once_before_any_comes_again() -> None:
    draw = Draw("data", torch.zeros(12, dtype=torch.long), 3, False, 0)
    first = [example for batch in range(4) for example in draw.examples(batch)]
    second = [example for batch in range(4, 8) for example in draw.examples(batch)]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_seeds_names_and_sizes_have_draws_of_their_own() -> None:
    targets = torch.zeros(100, dtype=torch.long)
    draws = [("a", 2, 0), ("b", 2, 0), ("a", 3, 0), ("a", 2, 1)]
    assert len({tuple(Draw(name, targets, size, False, seed).examples(0)[:2]) for name, size, seed in draws}) == 4


def test_reference_is_a_part_of_large_data_and_the_whole_of_small_data() -> None:
    assert reference_positions("data", 10).tolist() == list(range(10))
    assert len(reference_positions("data", 5000)) == REFERENCE
