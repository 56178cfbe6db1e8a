"""Pruning by size, at random, and by layer: what is kept, and what a zero says."""

import math

import pytest
import torch

import gradleak as gl
from gradleak.defenses.preimage import Preimage
from gradleak.defenses.top_k import kept_count
from gradleak.seeds import stage_generator
from tests.defenses.drawn import update
from tests.problems import images, labels, small_lenet

TopK, RandomK, DropLayers = gl.defenses.TopK, gl.defenses.RandomK, gl.defenses.DropLayers


def test_a_share_is_rounded_up_but_not_by_its_own_error() -> None:
    for tenths in range(1, 11):
        for entries in range(10, 3000, 10):
            assert kept_count(tenths / 10, entries) == tenths * entries // 10
    assert kept_count(0.1, 31) == 4
    assert kept_count(1e-15, 5) == 1
    assert kept_count(0.5, 0) == 0


@pytest.mark.parametrize("keep", [0.001, 0.1, 0.35, 1.0])
@pytest.mark.parametrize("kind", [TopK, RandomK])
def test_kept_ratio_by_scope(kind: type[gl.defenses.TopK] | type[gl.defenses.RandomK], keep: float) -> None:
    ones = {name: torch.rand_like(tensor) + 1 for name, tensor in update().items()}
    entries = {name: tensor.numel() for name, tensor in ones.items()}
    by_layer = kind(keep, scope="layer").apply(ones, "gradient", stage_generator(0, "kept"))
    for name, tensor in by_layer.items():
        assert int(tensor.count_nonzero()) == math.ceil(round(keep * entries[name], 6))
    whole = kind(keep, scope="global").apply(ones, "gradient", stage_generator(0, "kept"))
    kept = sum(int(tensor.count_nonzero()) for tensor in whole.values())
    assert kept == math.ceil(round(keep * sum(entries.values()), 6))


def test_largest_are_kept_and_the_first_of_equals() -> None:
    tensors = {
        "a": torch.tensor([1.0, -3.0, 2.0]),
        "none": torch.zeros(0),
        "b": torch.tensor([[2.0, -2.0], [0.5, 2.0]]),
    }
    whole = TopK(3 / 7).apply(tensors, "gradient", None)
    assert whole["a"].tolist() == [0.0, -3.0, 2.0]
    assert whole["b"].tolist() == [[2.0, 0.0], [0.0, 0.0]]
    by_layer = TopK(0.5, scope="layer").apply(tensors, "gradient", None)
    assert by_layer["a"].tolist() == [0.0, -3.0, 2.0]
    assert by_layer["b"].tolist() == [[2.0, -2.0], [0.0, 0.0]]
    for defense in (TopK(0.5), TopK(0.5, scope="layer"), RandomK(0.5)):
        known = defense.preimage(Preimage.exactly(defense.apply(tensors, "gradient", stage_generator(0, "kept"))))
        assert known.lower["none"].shape == (0,)


def test_a_pruned_entry_is_no_larger_than_the_smallest_that_was_sent() -> None:
    sent = {"a": torch.tensor([0.0, -3.0]), "b": torch.tensor([0.5, 0.0])}
    for scope, reach in (("global", 0.5), ("layer", 3.0)):
        known = TopK(0.5, scope).preimage(Preimage.exactly(sent))  # pyright: ignore[reportArgumentType]
        assert (known.lower["a"].tolist(), known.upper["a"].tolist()) == ([-reach, -3.0], [reach, -3.0])


def test_pruning_leaves_a_sign_its_sign() -> None:
    true = {"a": torch.tensor([0.1, -3.0, 2.0, 0.2])}
    prune, sign = TopK(0.5), gl.defenses.Sign()
    after = sign.preimage(Preimage.exactly(sign.apply(prune.apply(true, "gradient", None), "gradient", None)))
    known = prune.preimage(after)
    inf = math.inf
    assert (known.lower["a"].tolist(), known.upper["a"].tolist()) == ([-inf, -inf, 0.0, -inf], [inf, 0.0, inf, inf])


def test_random_entries_are_right_on_average_and_each_as_often() -> None:
    true = {"a": torch.tensor([1.0, -2.0, 4.0, 0.5, 3.0], dtype=torch.float64)}
    generator, count = stage_generator(0, "kept"), 4000
    drawn = torch.stack([RandomK(0.3).apply(true, "gradient", generator)["a"] for _ in range(count)])
    share = 2 / 5  # 0.3 of 5 entries, rounded up
    error = true["a"].abs() * ((1 / share - 1) / count) ** 0.5
    assert bool(((drawn.mean(dim=0) - true["a"]).abs() < 4 * error).all())
    often = (drawn != 0).double().mean(dim=0)
    assert bool(((often - share).abs() < 4 * (share * (1 - share) / count) ** 0.5).all())
    plain = RandomK(0.3, unbiased=False)
    assert torch.equal(plain.apply(true, "gradient", None)["a"], share * true["a"])
    kept = plain.apply(true, "gradient", stage_generator(0, "kept"))["a"]
    assert torch.equal(kept[kept != 0], true["a"][kept != 0])
    assert torch.equal(RandomK(0.3).apply(true, "gradient", None)["a"], true["a"])


def test_what_was_not_drawn_says_nothing() -> None:
    sent = {"a": torch.tensor([0.0, 10.0, 0.0, 0.0])}
    known = RandomK(0.25).preimage(Preimage.exactly(sent))
    assert (known.lower["a"].tolist(), known.upper["a"].tolist()) == (
        [-math.inf, 2.5, -math.inf, -math.inf],
        [math.inf, 2.5, math.inf, math.inf],
    )


@pytest.mark.parametrize("neutral", [TopK(1.0), TopK(1.0, scope="layer"), RandomK(1.0), RandomK(1.0, unbiased=False)])
def test_keeping_everything_is_the_identity(neutral: gl.defenses.Defense) -> None:
    true = update()
    for name, tensor in neutral.apply(true, "gradient", stage_generator(0, "kept")).items():
        assert torch.equal(tensor, true[name])


def test_layers_are_dropped_by_pattern() -> None:
    task = small_lenet()
    drop = DropLayers(("conv*.weight", "linear.bias"))
    observation, _ = gl.capture(task, images(1), labels(1), defenses=[drop])
    plain, _ = gl.capture(task, images(1), labels(1))
    dropped = [name for name, tensor in observation.update.tensors.items() if not bool(tensor.any())]
    assert "linear.bias" in dropped
    assert all(name == "linear.bias" or (name.startswith("conv") and name.endswith("weight")) for name in dropped)
    for name, tensor in observation.update.tensors.items():
        assert name in dropped or torch.equal(tensor, plain.update.tensors[name])


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        (DropLayers(("conv*", "dense.*")), "got 'dense.*', which fits none"),
        (DropLayers(()), "expected at least one pattern"),
        (DropLayers("conv*"), "got the word 'conv*'"),  # pyright: ignore[reportArgumentType]
        (DropLayers(("*",)), "expected an update with an entry other than zero"),
        (TopK(0.0), "TopK.keep: expected a share above 0 and at most 1, got 0.0"),
        (TopK(math.nan), "got nan"),
        (RandomK(1.5), "RandomK.keep: expected a share above 0 and at most 1, got 1.5"),
        (RandomK(0.5, scope="row"), "RandomK.scope: expected 'global' or 'layer', got 'row'"),  # pyright: ignore[reportArgumentType]
    ],
    ids=repr,
)
def test_what_cannot_be_applied_is_refused_in_one_line(defense: gl.defenses.Defense, expected: str) -> None:
    with pytest.raises(gl.BadInput) as caught:
        gl.capture(small_lenet(), images(1), labels(1), defenses=[defense])
    (line,) = caught.value.problems
    assert expected in line
