"""InstaHide: bounds of the shares, fresh signs, and what happens to small batches."""

import pytest
import torch

import gradleak as gl
from gradleak.defenses.insta_hide import received, unreceived
from gradleak.defenses.mixup import mixed
from gradleak.seeds import stage_generator
from tests.problems import images, labels, small_lenet

SPACE = gl.ImageSpace((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


def test_shares_keep_to_their_bounds_and_images_are_different() -> None:
    for seed in range(30):
        drawn = gl.defenses.InstaHide(k=3, largest=0.5).coefficients(5, stage_generator(seed, "instahide"))
        assert torch.allclose(drawn.sum(dim=1), torch.ones(5).double())
        assert float(drawn.max()) <= 0.5
        assert (drawn > 0).sum(dim=1).tolist() == [3] * 5  # k different images
        assert bool((drawn.diagonal() > 0).all())  # one's own among them
        assert (drawn > 0).sum(dim=0).tolist() == [3] * 5  # by permutations


def test_magnitudes_are_those_of_mixtures_and_signs_are_even() -> None:
    defense, inputs = gl.defenses.InstaHide(k=2), images(4)
    targets = torch.eye(4).double()
    encodings, soft = defense.change_batch(inputs, targets, SPACE, stage_generator(0, "defense"))
    sizes, mixtures = received(encodings, SPACE), received(mixed(soft, inputs), SPACE)  # soft rows are the shares
    assert torch.allclose(sizes.abs(), mixtures.abs())
    flipped = (sizes * mixtures < 0).double()
    assert abs(float(flipped.mean()) - 0.5) < 4 * 0.5 / flipped.numel() ** 0.5
    assert abs(float(flipped[0].mean() - flipped[:, 0].mean())) < 0.2
    assert not torch.equal(flipped[0], flipped[1])
    again, _ = defense.change_batch(inputs, targets, SPACE, stage_generator(0, "defense"))
    assert torch.equal(encodings, again)


def test_what_the_model_receives_and_back() -> None:
    inputs = images(2)
    assert torch.allclose(unreceived(received(inputs, SPACE), SPACE), inputs)
    rows = torch.rand(2, 4)
    assert torch.equal(received(rows, gl.TabularSpace(4)), rows)


def test_small_batches_mix_what_they_have() -> None:
    defense = gl.defenses.InstaHide(k=4)
    assert defense.coefficients(1, stage_generator(0, "one")).tolist() == [[1.0]]
    two = defense.coefficients(2, stage_generator(0, "two"))
    assert bool((two > 0).all())
    assert torch.allclose(two.sum(dim=1), torch.ones(2).double())


def test_settings_out_of_range_are_refused_all_at_once() -> None:
    wrong = gl.defenses.InstaHide(k=4, largest=0.25, own=0.0, others=-1.0)
    with pytest.raises(gl.BadInput) as caught:
        gl.capture(small_lenet(), images(1), labels(1), defenses=[wrong])
    assert len(caught.value.problems) == 3
    assert gl.defenses.InstaHide(k=0).problems() == ["InstaHide.k: expected at least 1 image, got 0; 4 is usual"]
