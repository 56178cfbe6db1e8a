import json
import math

import pytest
import torch

from gradleak.errors import BadInput
from gradleak.scoring import score, score_inputs
from tests.scoring.examples import image_truth, random_images, reconstruction, row_truth


def test_a_perfect_batch_in_another_order():
    inputs = random_images(4)
    order = [1, 2, 0, 3]
    scores = score(reconstruction(inputs[order], targets=order), image_truth(inputs))
    assert scores.paired_with.tolist() == [2, 0, 1, 3]
    assert scores.psnr.tolist() == [math.inf] * 4
    assert scores.target_correct == (True,) * 4
    assert scores.max_abs_error.tolist() == [0.0] * 4


def test_rows_are_in_true_order():
    inputs = 0.2 + 0.5 * random_images(3).double()
    offsets = torch.tensor([0.1, 0.01, 0.001], dtype=torch.float64)
    order = [2, 0, 1]
    guess = (inputs + offsets.reshape(3, 1, 1, 1))[order]
    scores = score(reconstruction(guess, targets=[2, 9, 1]), image_truth(inputs))
    assert len(scores) == 3
    assert scores.psnr.tolist() == pytest.approx([20.0, 40.0, 60.0], abs=1e-8)
    assert scores.mse.tolist() == pytest.approx([1e-2, 1e-4, 1e-6], rel=1e-8)
    assert scores.max_abs_error.tolist() == pytest.approx([0.1, 0.01, 0.001], rel=1e-8)
    assert scores.correlation.tolist() == pytest.approx([1.0] * 3)
    assert scores.target_correct == (False, True, True)
    for raw in (scores.psnr_unclamped, score_inputs(guess, image_truth(inputs)).psnr_unclamped):
        assert raw.tolist() == pytest.approx([20.0, 40.0, 60.0], abs=1e-8)


def test_offset_of_a_tenth_is_20_db_whatever_the_bounds():
    inputs = 255 * 0.9 * random_images(2).double()
    scores = score_inputs(inputs + 25.5, image_truth(inputs, bounds=(0.0, 255.0)))
    assert scores.psnr.tolist() == pytest.approx([20.0, 20.0], abs=1e-9)
    shifted = score_inputs(inputs / 127.5 - 1 + 0.2, image_truth(inputs / 127.5 - 1, bounds=(-1.0, 1.0)))
    assert shifted.psnr.tolist() == pytest.approx([20.0, 20.0], abs=1e-9)
    torch.testing.assert_close(shifted.ssim < 1.0, torch.tensor([True, True]))


def test_values_beyond_the_bounds_are_clamped_for_all_but_one_column():
    inputs = torch.ones(1, 3, 16, 16, dtype=torch.float64)
    inputs[:, :, 0] = 0.0
    guess = 1.02 * inputs - 0.01
    for scores in (score(reconstruction(guess), image_truth(inputs)), score_inputs(guess, image_truth(inputs))):
        assert scores.psnr.tolist() == [math.inf]
        assert scores.max_abs_error.tolist() == [0.0]
        assert scores.psnr_unclamped.tolist() == pytest.approx([40.0], abs=1e-9)


def test_pairing_uses_clamped_values():
    inputs = torch.stack([torch.full((3, 12, 12), 0.2), torch.ones(3, 12, 12)])
    # Clamped, the first guess is the white image; raw, it is farther from white than from the other.
    guess = torch.stack([torch.full((3, 12, 12), 9.0), torch.full((3, 12, 12), 0.4)])
    assert score(reconstruction(guess), image_truth(inputs)).paired_with.tolist() == [1, 0]


def test_given_targets_are_not_scored():
    scores = score(reconstruction(random_images(3), targets_given=True), image_truth(random_images(3)))
    assert scores.targets_given
    assert scores.target_correct == (None, None, None)
    assert scores.psnr.tolist() == [math.inf] * 3


def test_soft_targets_compare_by_the_most_probable_class():
    one_hot = torch.tensor([[0, 1, 0], [1, 0, 0]])
    soft = torch.tensor([[0.1, 0.9, 0.0], [0.6, 0.3, 0.1]])
    scores = score(reconstruction(random_images(2), targets=[1, 1]), image_truth(random_images(2), soft))
    assert scores.target_correct == (True, False)
    assert score(
        reconstruction(random_images(2), targets=soft), image_truth(random_images(2), one_hot)
    ).target_correct == (
        True,
        True,
    )


def test_not_applicable_is_nan_and_never_a_correct_target():
    inputs = random_images(2)
    nothing = reconstruction(torch.full_like(inputs, math.nan), targets=[0, 1], status="not_applicable")
    scores = score(nothing, image_truth(inputs))
    for column in ("psnr", "ssim", "mse", "correlation", "max_abs_error", "psnr_unclamped"):
        assert getattr(scores, column).isnan().all(), column
    assert scores.target_correct == (False, False)
    assert scores.unscored == 2
    assert math.isnan(scores.median("psnr"))
    assert math.isnan(scores.success_rate(20.0))
    given = reconstruction(torch.full_like(inputs, math.nan), targets_given=True, status="not_applicable")
    assert score(given, image_truth(inputs)).target_correct == (None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_example_is_nan_and_the_others_are_scored(bad: float):
    inputs = random_images(3)
    guess = inputs[[1, 2, 0]].clone()
    guess[1, 0, 0, 0] = bad
    scores = score_inputs(guess, image_truth(inputs))
    assert scores.paired_with.tolist() == [2, 0, 1]
    assert scores.psnr.isnan().tolist() == [False, False, True]
    assert scores.psnr[:2].tolist() == [math.inf, math.inf]
    assert scores.success_rate(20.0) == pytest.approx(2 / 3)


def test_other_counts():
    inputs = random_images(3)
    few = score(reconstruction(inputs[[2]], targets=[2]), image_truth(inputs))
    assert few.paired_with.tolist() == [-1, -1, 0]
    assert few.psnr.isnan().tolist() == [True, True, False]
    assert few.target_correct == (False, False, True)
    assert few.success_rate(30.0) == pytest.approx(1 / 3)
    more = torch.cat([random_images(2, seed=1), inputs[[1, 2, 0]]])
    many = score(reconstruction(more, targets=[7, 7, 1, 2, 8]), image_truth(inputs))
    assert many.paired_with.tolist() == [4, 2, 3]
    assert many.target_correct == (False, True, True)
    none = score(reconstruction(inputs[:0]), image_truth(inputs))
    assert none.unscored == 3


def test_rows_without_bounds_have_no_psnr():
    rows = torch.tensor([[1.0, -40.0, 3.0], [2.0, 2.0, 8.0]])
    scores = score_inputs(rows.flip(0) + 0.5, row_truth(rows))
    assert scores.paired_with.tolist() == [1, 0]
    assert scores.psnr.isnan().all()
    assert scores.psnr_unclamped.isnan().all()
    assert scores.ssim.isnan().all()
    assert scores.mse.tolist() == pytest.approx([0.25, 0.25])
    assert scores.unscored == 0
    bounded = score_inputs(rows, row_truth(rows, bounds=(-50.0, 50.0)))
    assert bounded.psnr.tolist() == [math.inf, math.inf]
    assert bounded.ssim.isnan().all()


def test_columns_as_plain_python():
    inputs = random_images(2)
    guess = inputs.clone()
    guess[1] = math.nan
    columns = score(reconstruction(guess), image_truth(inputs)).to_dict()
    assert list(columns) == [
        *("psnr", "ssim", "mse", "correlation", "max_abs_error", "psnr_unclamped"),
        *("target_correct", "paired_with"),
    ]
    assert columns["psnr"][0] == math.inf
    assert math.isnan(columns["psnr"][1] or 0.0)
    assert columns["target_correct"] == [True, False]
    assert columns["paired_with"] == [0, 1]
    assert {type(value) for value in columns["ssim"]} == {float}
    assert {type(value) for value in columns["paired_with"]} == {int}
    assert json.loads(json.dumps(columns))["mse"][0] == 0.0


def test_median_and_rate():
    inputs = 0.2 + 0.5 * random_images(4).double()
    offsets = torch.tensor([0.1, 0.01, 0.001, math.nan], dtype=torch.float64).reshape(4, 1, 1, 1)
    scores = score_inputs(inputs + offsets, image_truth(inputs))
    assert scores.median("psnr") == pytest.approx(40.0, abs=1e-8)
    assert scores.success_rate(30.0) == 0.5


def test_scores_cannot_be_changed_by_later_work_on_the_inputs():
    inputs = random_images(1)
    guess = inputs.clone().requires_grad_()
    scores = score(reconstruction(guess), image_truth(inputs))
    assert not scores.psnr.requires_grad
    assert scores.psnr.tolist() == [math.inf]


def test_bad_input_is_refused():
    with pytest.raises(BadInput, match=r"expected \[3, 16, 16\] as in the truth, got \[3, 12, 12\]"):
        score(reconstruction(random_images(1, side=12)), image_truth(random_images(1)))
    with pytest.raises(BadInput, match=r"targets: expected shape \[2\], got \[3\]"):
        score(reconstruction(random_images(2), targets=[0, 1, 2]), image_truth(random_images(2)))
