"""The data set: its checks and its draws."""

import pytest
import torch

from gradleak.errors import BadInput
from gradleak.zoo.data import Dataset


def numbered(count: int, classes: int) -> Dataset:
    """Rows that hold their own position, in classes that take turns."""
    positions = torch.arange(count)
    return Dataset("rows", positions[:, None].float(), positions % classes, tuple("abcdefgh"[:classes]))


def test_sample_is_without_replacement_and_keeps_pairs() -> None:
    data = numbered(50, 3)
    inputs, targets = data.sample(50, seed=1)
    assert sorted(inputs[:, 0].int().tolist()) == list(range(50))
    assert torch.equal(inputs[:, 0].long() % 3, targets)
    assert torch.equal(inputs[:, 0].long(), data.indices(50, seed=1))


def test_draws_depend_on_the_seed_alone_and_a_larger_one_continues() -> None:
    data = numbered(50, 3)
    before = torch.random.get_rng_state()
    for distinct in (False, True):
        assert torch.equal(
            data.indices(2, 1, distinct_labels=distinct), data.indices(3, 1, distinct_labels=distinct)[:2]
        )
    assert not torch.equal(data.indices(20, 1), data.indices(20, 2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_example_is_drawn_equally_often() -> None:
    data = numbered(5, 5)
    first = torch.stack([data.indices(1, seed)[0] for seed in range(2000)])
    # Binomial(2000, 1/5) has mean 400 and standard deviation 18: five of them on either side.
    assert all(310 <= int(count) <= 490 for count in torch.bincount(first, minlength=5))


def test_distinct_labels() -> None:
    data = numbered(50, 8)
    for seed in range(20):
        _, targets = data.sample(8, seed, distinct_labels=True)
        assert sorted(targets.tolist()) == list(range(8))
    with pytest.raises(BadInput, match="expected 1 to 8 .classes with examples"):
        data.indices(9, 0, distinct_labels=True)


@pytest.mark.parametrize(("count", "seed", "problems"), [(0, 0, 1), (51, 0, 1), (3, -1, 1), (0, -1, 2)])
def test_bad_draws(count: int, seed: int, problems: int) -> None:
    with pytest.raises(BadInput) as caught:
        numbered(50, 3).sample(count, seed)
    assert len(caught.value.problems) == problems


def test_subset_and_split() -> None:
    data = numbered(10, 2)
    assert data.subset(torch.tensor([7, 2])).inputs[:, 0].tolist() == [7, 2]
    first, rest = data.split(4, seed=3)
    assert (len(first), len(rest)) == (4, 6)
    assert sorted([*first.inputs[:, 0].tolist(), *rest.inputs[:, 0].tolist()]) == list(range(10))
    assert rest.class_names == data.class_names
    for bad in (torch.tensor([10]), torch.tensor([-1]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(BadInput):
            data.subset(bad)
    for count in (0, 10):
        with pytest.raises(BadInput, match="both parts"):
            data.split(count, 0)


def test_resized_keeps_constants_and_averages_blocks() -> None:
    blocks = torch.tensor([[0.0, 1.0], [1.0, 0.5]]).repeat_interleave(8, 0).repeat_interleave(8, 1)
    data = Dataset("blocks", blocks[None, None], torch.tensor([0]), ("one",))
    small = data.resized(4).inputs[0, 0]
    assert torch.allclose(small[0::3, 0::3], torch.tensor([[0.0, 1.0], [1.0, 0.5]]), atol=1e-6)
    # Antialiasing: a checkerboard of single pixels becomes gray, where plain sampling would give 0 or 1.
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    gray = Dataset("board", board[None, None].float(), torch.tensor([0]), ("one",)).resized(8).inputs
    assert (gray - 0.5).abs().max() < 0.1
    assert data.resized(16) is data
    with pytest.raises(BadInput, match="at least 1 pixel"):
        data.resized(0)
    with pytest.raises(BadInput, match="expected images to resize"):
        numbered(3, 1).resized(4)


def test_properties() -> None:
    data = Dataset("d", torch.zeros(4, 3, 5, 6), torch.zeros(4, dtype=torch.int64), ("a", "b"))
    assert (len(data), data.input_shape, data.num_classes) == (4, (3, 5, 6), 2)


def test_tabular_values_may_leave_the_unit_interval_and_images_may_not() -> None:
    targets = torch.zeros(2, dtype=torch.int64)
    Dataset("rows", torch.full((2, 3), -7.0), targets, ("a",))
    for value in (-0.01, 1.01):
        with pytest.raises(BadInput, match=r"in \[0, 1\]"):
            Dataset("images", torch.full((2, 1, 2, 2), value), targets, ("a",))


@pytest.mark.parametrize(
    ("inputs", "targets", "names", "words"),
    [
        (torch.zeros(2, 3).double(), torch.tensor([0, 0]), ("a",), ["float32"]),
        (torch.zeros(0, 3), torch.tensor([], dtype=torch.int64), ("a",), ["at least one number"]),
        (torch.tensor([[0.0], [float("nan")]]), torch.tensor([0, 0]), ("a",), ["NaN"]),
        (torch.zeros(2, 3), torch.tensor([0, 0, 0]), ("a",), ["3 targets for 2 inputs"]),
        (torch.zeros(2, 3), torch.tensor([0, 1]), ("a",), ["expected 0 to 0, got 0 to 1"]),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), ("a",), ["got -1 to 0"]),
        (torch.zeros(2, 3), torch.tensor([0.0, 0.0]), ("a",), ["int64"]),
        (torch.zeros(2, 3), torch.tensor([0, 0]), ("a", "a"), ["different names"]),
        (torch.zeros(2, 3).int(), torch.tensor([[0], [0]]), (), ["float32", "int64", "different names"]),
    ],
)
def test_bad_parts_are_refused(
    inputs: torch.Tensor, targets: torch.Tensor, names: tuple[str, ...], words: list[str]
) -> None:
    with pytest.raises(BadInput) as caught:
        Dataset("bad", inputs, targets, names)
    assert len(caught.value.problems) == len(words)
    for problem, word in zip(caught.value.problems, words, strict=True):
        assert word in problem
