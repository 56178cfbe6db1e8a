import math

import pytest
import torch

from gradleak.errors import BadInput
from gradleak.scoring import baseline_scores, baselines
from gradleak.scoring.pairing import pair
from tests.scoring.examples import image_truth, random_images, row_truth


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_grey_is_the_middle_of_the_bounds():
    images = random_images(2)
    assert baselines.grey(image_truth(images)).unique().tolist() == [0.5]
    assert baselines.grey(image_truth(2 * images - 1, bounds=(-1.0, 1.0))).unique().tolist() == [0.0]


def test_grey_against_black_and_white_is_6_02_db():
    # MSE is 1/4, so the PSNR is 10 log10(4).
    images = (random_images(2) > 0.5).double()
    scores = baseline_scores(image_truth(images), random_images(3, seed=1))["grey"]
    assert scores.psnr.tolist() == pytest.approx([10 * math.log10(4)] * 2, abs=1e-9)
    assert scores.correlation.isnan().all()


def test_mean_color_is_each_images_own():
    images = random_images(3).double()
    cards = baselines.mean_color(image_truth(images))
    assert cards.shape == images.shape
    for image, card in zip(images, cards, strict=True):
        for channel in range(3):
            assert card[channel].unique().tolist() == pytest.approx([image[channel].mean().item()])


def test_mean_color_error_is_the_variance_within_channels():
    images = random_images(3).double()
    scores = baseline_scores(image_truth(images), random_images(4, seed=1))["mean_color"]
    variance = images.var(dim=(2, 3), correction=0).mean(dim=1)
    torch.testing.assert_close(scores.mse, variance)


def test_no_flat_card_beats_the_mean_color():
    images = random_images(5)
    scores = baseline_scores(image_truth(images), random_images(4, seed=1))
    assert bool((scores["mean_color"].mse <= scores["grey"].mse + 1e-12).all())


def test_dataset_mean_is_the_mean_of_the_reference():
    reference = torch.stack([torch.full((3, 12, 12), value) for value in (0.0, 0.25, 0.5)])
    found = baselines.dataset_mean(image_truth(random_images(2, side=12)), reference)
    assert found.shape == (2, 3, 12, 12)
    assert found.unique().tolist() == [0.25]


def test_random_other_never_shows_a_true_image():
    reference = random_images(6)
    truth = image_truth(reference[[1, 4, 5]])
    for seed in range(20):
        drawn = baselines.random_other(truth, reference, generator=seeded(seed))
        assert all(any(torch.equal(image, reference[other]) for other in (0, 2, 3)) for image in drawn)


def test_random_other_finds_the_true_image_in_another_precision():
    reference = random_images(2).double()
    truth = image_truth(reference[:1].float())
    drawn = baselines.random_other(truth, reference, generator=seeded())
    assert torch.equal(drawn, reference[1:].float())


def test_same_seed_same_draw():
    truth, reference = image_truth(random_images(4)), random_images(50, seed=1)
    first = baseline_scores(truth, reference, seed=3)["random_other"].psnr
    assert torch.equal(first, baseline_scores(truth, reference, seed=3)["random_other"].psnr)
    assert not torch.equal(first, baseline_scores(truth, reference, seed=4)["random_other"].psnr)


def test_baselines_are_paired_like_attacks():
    images, reference = random_images(6), random_images(40, seed=1)
    drawn = baselines.random_other(image_truth(images), reference, generator=seeded(0))
    expected = pair(drawn, images)
    assert expected.tolist() != list(range(6)), "the test needs a draw that pairing reorders"
    found = baseline_scores(image_truth(images), reference, seed=0)["random_other"]
    assert found.paired_with.tolist() == expected.tolist()
    unpaired = (drawn.double() - images.double()).square().mean(dim=(1, 2, 3))
    assert found.mse.sum().item() < unpaired.sum().item()


def test_baselines_guess_no_target():
    for scores in baseline_scores(image_truth(random_images(2)), random_images(3, seed=1)).values():
        assert scores.target_correct == (None, None)
        assert not scores.targets_given


def test_only_what_the_input_space_allows():
    images = baseline_scores(image_truth(random_images(2)), random_images(3, seed=1))
    assert list(images) == ["grey", "mean_color", "dataset_mean", "random_other"]
    rows, reference = torch.rand(2, 5, generator=seeded()), torch.rand(9, 5, generator=seeded(1))
    assert list(baseline_scores(row_truth(rows), reference)) == ["dataset_mean", "random_other"]
    assert list(baseline_scores(row_truth(rows, (0.0, 1.0)), reference)) == ["grey", "dataset_mean", "random_other"]


def test_bad_input_is_refused():
    truth, rows = image_truth(random_images(2)), row_truth(torch.zeros(2, 5))
    with pytest.raises(BadInput, match="bounds"):
        baselines.grey(rows)
    with pytest.raises(BadInput, match="images"):
        baselines.mean_color(rows)
    for reference in (random_images(3, side=12), random_images(0)):
        with pytest.raises(BadInput, match="reference_inputs"):
            baseline_scores(truth, reference)
    with pytest.raises(BadInput, match="data beyond the batch"):
        baseline_scores(truth, random_images(2))
