import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage import metrics as skimage_metrics
from torch import Tensor

from gradleak.errors import BadInput
from gradleak.scoring import metrics
from tests.scoring.examples import random_images

Plain = Callable[[Tensor, Tensor], Tensor]


def psnr(x: Tensor, y: Tensor) -> Tensor:
    return metrics.peak_signal_noise_ratio(x, y, data_range=1.0)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    return metrics.structural_similarity(x, y, data_range=1.0)


ALL: list[Plain] = [metrics.mean_squared_error, metrics.max_abs_error, metrics.correlation, psnr, ssim]


def gaussian_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Equation 13 of the SSIM paper for one channel, one window position after the other."""
    offsets = np.arange(11) - 5
    profile = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(profile, profile) / profile.sum() ** 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values: list[float] = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
            values.append(float(numerator / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))))
    return float(np.mean(values))


def test_constant_offset_of_a_tenth_is_20_db():
    images = random_images(3).double() * 0.9
    assert psnr(images, images + 0.1).tolist() == pytest.approx([20.0] * 3, abs=1e-10)


def test_mse_of_0_0069_is_21_61_db():
    offset = torch.full((1, 3, 8, 8), math.sqrt(0.0069), dtype=torch.float64)
    assert metrics.mean_squared_error(offset, torch.zeros_like(offset)).item() == pytest.approx(0.0069, rel=1e-12)
    assert round(psnr(offset, torch.zeros_like(offset)).item(), 2) == 21.61


def test_psnr_depends_on_error_over_range_only():
    images, others = random_images(4), random_images(4, seed=1)
    scaled = metrics.peak_signal_noise_ratio(255 * images.double(), 255 * others.double(), data_range=255.0)
    torch.testing.assert_close(scaled, psnr(images, others), rtol=0, atol=1e-9)


def test_identical_examples():
    images = random_images(2)
    assert metrics.mean_squared_error(images, images).tolist() == [0.0, 0.0]
    assert metrics.max_abs_error(images, images).tolist() == [0.0, 0.0]
    assert psnr(images, images).tolist() == [math.inf, math.inf]
    assert ssim(images, images).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)
    assert metrics.correlation(images, images).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_against_other_libraries(data_range: float):
    x, y = random_images(5, side=20), random_images(5, side=20, seed=1)
    y = 0.6 * x + 0.4 * y
    found_psnr = metrics.peak_signal_noise_ratio(x, y, data_range=data_range)
    found_ssim = metrics.structural_similarity(x, y, data_range=data_range)
    found_correlation = metrics.correlation(x, y)
    for index in range(5):
        a, b = x[index].double().numpy(), y[index].double().numpy()
        assert found_psnr[index].item() == pytest.approx(
            skimage_metrics.peak_signal_noise_ratio(a, b, data_range=data_range), abs=1e-9
        )
        assert found_correlation[index].item() == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-12)
        by_hand = np.mean([gaussian_ssim(a[channel], b[channel], data_range) for channel in range(3)])
        assert found_ssim[index].item() == pytest.approx(by_hand, abs=1e-10)


def test_ssim_is_that_of_scikit_image_with_an_explicit_window():
    x, y = random_images(1, side=24), random_images(1, side=24, seed=1)
    expected = skimage_metrics.structural_similarity(
        x[0].permute(1, 2, 0).double().numpy(),
        y[0].permute(1, 2, 0).double().numpy(),
        win_size=11,
        data_range=1.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(x, y).item() == pytest.approx(expected, abs=1e-12)


def test_ssim_needs_images_of_11_pixels():
    assert not ssim(random_images(1, side=11), random_images(1, side=11, seed=1)).isnan().any()
    narrow = torch.rand(2, 1, 10, 40, generator=torch.Generator().manual_seed(0))
    assert ssim(narrow, narrow).isnan().all()
    rows = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    assert ssim(rows, rows).isnan().all()


def test_correlation_subtracts_the_mean_of_the_example_not_of_the_channel():
    # Channels of a constant color each: with means taken per channel nothing would be left to correlate.
    colors = torch.tensor([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1]]).reshape(2, 3, 1, 1).expand(2, 3, 4, 4)
    assert metrics.correlation(colors[:1], colors[:1]).item() == pytest.approx(1.0, abs=1e-12)
    assert metrics.correlation(colors[:1], colors[1:]).item() == pytest.approx(-1.0, abs=1e-6)


def test_correlation_ignores_brightness_and_contrast():
    images = random_images(3).double()
    assert metrics.correlation(images, 0.1 * images + 0.7).tolist() == pytest.approx([1.0] * 3, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0 / 3.0])
def test_correlation_with_a_constant_is_nan(value: float):
    images = random_images(1).double()
    flat = torch.full_like(images, value)
    assert metrics.correlation(flat, images).isnan().all()
    assert metrics.correlation(images, flat).isnan().all()
    assert metrics.correlation(flat, flat).isnan().all()


@pytest.mark.parametrize("metric", ALL)
def test_nan_stays_in_its_own_example(metric: Plain):
    x, y = random_images(3), random_images(3, seed=1)
    x[1, 0, 0, 0] = math.nan
    assert metric(x, y).isnan().tolist() == [False, True, False]
    assert metric(y, x).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("metric", ALL)
def test_examples_do_not_influence_each_other(metric: Plain):
    x, y = random_images(4), random_images(4, seed=1)
    alone = torch.cat([metric(x[index : index + 1], y[index : index + 1]) for index in range(4)])
    together = metric(x, y)
    assert together.shape == (4,)
    assert together.dtype == torch.float64
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_integer_and_half_inputs_are_computed_in_float64():
    bytes_ = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert metrics.mean_squared_error(bytes_, bytes_.flip(1)).item() == 255.0**2
    half = torch.tensor([[0.0, 300.0]], dtype=torch.float16)  # 300^2 is beyond the largest float16
    assert metrics.mean_squared_error(half, torch.zeros_like(half)).item() == 45000.0


@pytest.mark.parametrize("metric", ALL)
def test_bad_shapes_are_refused(metric: Plain):
    with pytest.raises(BadInput, match=r"\[2, 3, 16, 16\] and \[1, 3, 16, 16\]"):
        metric(random_images(2), random_images(1))  # would broadcast
    with pytest.raises(BadInput, match="axis of examples"):
        metric(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize("metric", [metrics.peak_signal_noise_ratio, metrics.structural_similarity])
@pytest.mark.parametrize("data_range", [0.0, -1.0, math.inf, math.nan])
def test_bad_data_range_is_refused(metric: Callable[..., Tensor], data_range: float):
    with pytest.raises(BadInput, match="data_range"):
        metric(random_images(1), random_images(1), data_range=data_range)


@pytest.mark.parametrize("metric", [metrics.peak_signal_noise_ratio, metrics.structural_similarity])
def test_data_range_has_no_default(metric: Callable[..., Tensor]):
    with pytest.raises(TypeError, match="data_range"):
        metric(random_images(1), random_images(1))
