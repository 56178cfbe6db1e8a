"""The best guess without an update, against distributions where it is known."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import binom, chi2

import gradleak as gl
from gradleak.seeds import stage_generator

estimate = gl.bounds.estimate_prior_hit_rate


def gaussian(count: int, entries: int = 20) -> torch.Tensor:
    return 0.5 + 0.1 * torch.randn((count, 1, entries), generator=stage_generator(0, "images"))


def test_equally_likely_candidates() -> None:
    assert gl.bounds.uniform_prior_hit_rate(50) == 0.02
    with pytest.raises(gl.BadInput, match="candidates: expected at least 2, got 1"):
        gl.bounds.uniform_prior_hit_rate(1)


def test_the_best_point_of_a_gaussian_is_its_mean_and_not_one_of_its_images() -> None:
    found = estimate(gaussian(2000), mse=0.008)
    exact = float(chi2.cdf(0.008 * 20 / 0.01, 20))  # around the mean; 0.28
    assert found.rate == pytest.approx(exact, abs=0.06)
    assert exact < found.upper < exact + 0.12
    assert found.counted == 1000
    images = gaussian(2000).flatten(1)
    # Twice as far from an image as from the mean: the images alone would have missed it by far.
    around_images = torch.cdist(images[::2], images[1::2]).square() / 20 <= 0.008
    assert float(around_images.double().mean(dim=1).max()) < 0.9 * exact


def test_a_repeated_image_is_found_exactly() -> None:
    images = torch.rand((300, 1, 5, 5), generator=stage_generator(1, "images"))
    images[::3] = images[0]
    found = estimate(images, mse=0.0)
    assert found.rate == pytest.approx(1 / 3, abs=0.07)
    hits = round(found.rate * found.counted)
    # At the upper end so few hits are as unlikely as the error shared among all centers.
    assert float(binom.cdf(hits, found.counted, found.upper)) == pytest.approx(0.01 / found.centers, rel=1e-6)


def test_success_in_decibels_is_success_in_squared_errors() -> None:
    images = gaussian(100)
    assert estimate(images, psnr=20.0) == estimate(images, mse=0.01)
    assert estimate(images * 255, psnr=20.0, data_range=255.0).rate == estimate(images, mse=0.01).rate
    assert estimate(images, psnr=20.0, seed=1) != estimate(images, psnr=20.0)


def test_images_that_all_count_give_one_and_none_gives_almost_nothing() -> None:
    assert estimate(gaussian(100), mse=10.0).upper == 1.0
    nothing = estimate(gaussian(100), mse=1e-9, max_centers=3)
    assert nothing.rate == 0.0
    assert nothing.centers == 3 + 1 + 4  # three images, their mean, and four centers moved
    assert 0 < nothing.upper == pytest.approx(1 - (0.01 / 8) ** (1 / 50))


def test_everything_wrong_is_named_at_once() -> None:
    words: dict[str, Any] = {"psnr": math.nan, "mse": -1.0, "data_range": 0.0, "confidence": 1.0, "max_centers": 0}
    with pytest.raises(gl.BadInput) as caught:
        estimate(torch.zeros(3, 2), **words)
    names = [problem.partition(":")[0] for problem in caught.value.problems]
    assert names == ["images", "success", "psnr", "mse", "data_range", "confidence", "max_centers"]
    with pytest.raises(gl.BadInput, match="expected finite values"):
        estimate(torch.full((30, 2), math.nan), mse=0.1)
    with pytest.raises(gl.BadInput, match="expected either psnr or mse"):
        estimate(gaussian(30))
