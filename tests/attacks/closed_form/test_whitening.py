"""Equations below a front, whitened: their unit, their zero, and what they measure."""

import pytest
import torch

from gradleak.attacks.closed_form.layers import Affine
from gradleak.attacks.closed_form.peeling import peel
from gradleak.attacks.closed_form.valley import follow_valley
from gradleak.attacks.closed_form.whitening import Whitening
from tests.attacks.closed_form.test_peeling import known_features
from tests.problems import images, labels, small_lenet


def prepared() -> tuple[Whitening, torch.Tensor, torch.Tensor]:
    """The equations below the features of a peeled batch, the batch, and a grey one."""
    batch = images(3)
    chain, update, front, _ = known_features(small_lenet(width=4), batch, labels(3))
    peeled = peel(chain, update, front, precision=1e-15)
    grey = torch.full_like(batch, 0.5)
    return Whitening(chain, update, peeled.front, grey, precision=1e-15, dtype=torch.float64), batch, grey


def test_of_order_one_at_grey_and_nothing_at_the_truth() -> None:
    whitening, batch, grey = prepared()
    assert 0.5 < float(whitening(grey, 0.0)(grey)) < 2
    assert float(whitening(grey, 0.0)(batch)) < 1e-6


def test_the_front_measures_how_far_inputs_must_move() -> None:
    whitening, batch, _ = prepared()
    objective = whitening(batch, 0.0)
    layer = whitening.chain.layers[whitening.front.index - 1]
    assert isinstance(layer, Affine)
    generator = torch.Generator().manual_seed(0)
    away = torch.randn(3, *layer.output_shape, generator=generator, dtype=torch.float64).flatten(1)
    unit = torch.eye(torch.Size(layer.input_shape).numel(), dtype=torch.float64).view(-1, *layer.input_shape)
    matrix = (layer(unit) - layer(torch.zeros_like(unit[:1]))).flatten(1).T
    least = torch.linalg.lstsq(matrix, away.T, driver="gelsd").solution
    whitened = objective.metrics[""] @ torch.einsum("ine,ne->ie", objective.combinations, away)[:, :, None]
    expected = float(least.square().sum()) / whitening.units[""]
    assert float(whitened.square().sum()) == pytest.approx(expected, rel=0.05)


def test_errors_lower_the_weight() -> None:
    whitening, _, grey = prepared()
    whitening.noise.fill_(1.0)
    exact, rough = (whitening(grey, tightness).squares(grey)[""].sum() for tightness in (0.0, 100.0))
    assert float(rough) < 0.1 * float(exact)


def test_a_curved_valley_is_followed_to_its_end() -> None:
    def residuals(point: torch.Tensor) -> torch.Tensor:
        return torch.stack([1 - point[0], 100 * (point[1] - point[0].square())])

    def linearize(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one = torch.ones(())
        rows = [torch.stack([-one, 0 * one]), torch.stack([-200 * point[0], 100 * one])]
        return residuals(point), torch.stack(rows)

    point, cost = follow_valley(residuals, linearize, torch.tensor([-1.2, 1.0]).double())
    assert cost < 1e-12
    torch.testing.assert_close(point, torch.ones(2).double(), rtol=0, atol=1e-5)


def test_a_matrix_that_rounding_left_indefinite_counts_by_its_diagonal() -> None:
    whitening, _, _ = prepared()
    matrix = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    factor = whitening._metric("", matrix, torch.zeros(2, dtype=torch.float64))  # pyright: ignore[reportPrivateUsage]
    assert factor.shape == (2,)
    assert bool(factor.isfinite().all())
