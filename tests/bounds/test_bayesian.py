"""Linear problems with normal inputs, where the posterior mean is known to be the best estimate, and limits."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.bounds import (
    FisherInformation,
    GaussianPrior,
    estimated_prior,
    smoothness_prior,
    van_trees,
)
from gradleak.bounds.bayesian import van_trees_at
from gradleak.defenses import GaussianNoise
from gradleak.errors import BadInput
from gradleak.linalg import Estimate
from gradleak.zoo.data import photographs
from gradleak.zoo.models import lenet
from tests.bounds.linear import problem, random
from tests.problems import images


def covariance(size: int, seed: int = 0, ratio: float = 1e-3) -> Tensor:
    turn = torch.linalg.qr(random(size, size, seed=seed)).Q
    return turn * torch.logspace(0, math.log10(ratio), size, dtype=torch.float64) @ turn.T


def information(matrix: Tensor, std: float) -> FisherInformation:
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return FisherInformation((values / std).square(), right.T)


def dense_floor(matrix: Tensor, std: float, prior: Tensor) -> float:
    precision = matrix.T @ matrix / std**2 + torch.linalg.inv(prior)
    return float(torch.linalg.inv(precision).trace()) / len(prior)


@pytest.mark.parametrize("rows", [5, 30])
def test_the_posterior_mean_attains_the_floor(rows: int) -> None:
    task, inputs, targets, client = problem(rows, 12)
    law, std = covariance(12), 0.7
    prior = GaussianPrior(torch.full((12,), 0.5, dtype=torch.float64), law)
    bound = gl.leakage_bound(task, inputs, targets, client=client, defenses=[GaussianNoise(std)], prior=prior)
    count, generator = 5000, torch.Generator().manual_seed(3)
    drawn = 0.5 + torch.randn(count, 12, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(law).T
    sent = drawn @ client.matrix.T + std * torch.randn(count, rows, generator=generator, dtype=torch.float64)
    seen = client.matrix @ law @ client.matrix.T + std**2 * torch.eye(rows, dtype=torch.float64)
    gain = law @ client.matrix.T @ torch.linalg.inv(seen)
    errors = 0.5 + (sent - 0.5 * client.matrix.sum(dim=1)) @ gain.T - drawn
    mse = errors.square().mean(dim=1)
    assert abs(float(mse.mean()) - bound.prior_mse_floor) < 3 * float(mse.std()) / count**0.5
    assert float(mse.std() / mse.mean()) == pytest.approx(bound.prior_spread, rel=0.06)
    assert bound.prior_pixel_std is not None
    assert float((errors.std(dim=0) / bound.prior_pixel_std[0] - 1).abs().max()) < 4 / (2 * count) ** 0.5
    assert math.isclose(bound.prior_mse_floor, dense_floor(client.matrix, std, law), rel_tol=1e-9)
    assert math.isclose(bound.prior_psnr_ceiling, -10 * math.log10(bound.prior_mse_floor))
    # Five equations leave seven directions free, which the prior fills.
    assert bound.status == ("free_directions" if rows < 12 else "bounded")
    assert bound.prior_psnr_ceiling > bound.psnr_ceiling


def test_limits_and_monotony() -> None:
    matrix, law = random(20, 8, seed=4), covariance(8)
    prior = GaussianPrior(torch.zeros(8, dtype=torch.float64), law)
    stds = [10.0**power for power in range(-6, 7)]
    floors = [van_trees(information(matrix, std), prior).mse_floor for std in stds]
    assert all(one < another for one, another in pairwise(floors))
    assert math.isclose(floors[0], information(matrix, stds[0]).mse_floor(), rel_tol=1e-6)
    assert math.isclose(floors[-1], float(law.trace()) / 8, rel_tol=1e-6)
    assert max(floors) <= float(law.trace()) / 8
    flat = GaussianPrior(prior.mean, 1e9 * law)
    assert math.isclose(
        van_trees(information(matrix, 1.0), flat).mse_floor, information(matrix, 1.0).mse_floor(), rel_tol=1e-6
    )
    levels = van_trees_at([information(matrix, 1.0)], prior, [std**-2 for std in stds])
    assert [level.mse_floor for level in levels] == pytest.approx(floors, rel=1e-9)


def test_floor_of_ill_conditioned_problems_is_that_of_dense_algebra() -> None:
    turn = torch.linalg.qr(random(30, 30, seed=7)).Q
    matrix = turn * torch.logspace(1, -4, 30, dtype=torch.float64)
    for std in (1e-6, 1e-3, 1.0):
        # Dense algebra in the eigenvectors of the information, where it is diagonal and nothing cancels.
        found = van_trees(information(matrix, std), GaussianPrior(torch.zeros(30), 0.06 * torch.eye(30)))
        wanted = 1 / ((matrix.norm(dim=0) / std).square() + 1 / 0.06)
        assert math.isclose(found.mse_floor, float(wanted.mean()), rel_tol=1e-6)


def test_directions_known_exactly_and_directions_without_variance_leave_nothing() -> None:
    vectors = torch.eye(4, dtype=torch.float64)
    law = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64))
    exact = FisherInformation(torch.tensor([torch.inf, 1.0], dtype=torch.float64), vectors[:, :2])
    found = van_trees(exact, GaussianPrior(torch.zeros(4), law))
    assert math.isclose(found.mse_floor, (0 + 1 / 1.5 + 3 + 0) / 4, rel_tol=1e-9)
    assert found.std is not None
    assert torch.allclose(found.std.square(), torch.tensor([0, 2 / 3, 3, 0], dtype=torch.float64), atol=1e-12)


def test_information_of_several_batches_is_averaged() -> None:
    law = covariance(6)
    prior = GaussianPrior(torch.zeros(6), law)
    pair = [random(4, 6, seed=seed) for seed in (1, 2)]
    found = van_trees([information(matrix, 1.0) for matrix in pair], prior)
    both = sum((matrix.T @ matrix for matrix in pair), torch.zeros(6, 6, dtype=torch.float64)) / 2
    assert math.isclose(found.mse_floor, float(torch.linalg.inv(both + torch.linalg.inv(law)).trace()) / 6)


def test_a_batch_is_one_of_independent_inputs() -> None:
    law, matrix = covariance(5), random(7, 10, seed=8)
    prior = GaussianPrior(torch.zeros(5), law)
    found = van_trees(information(matrix, 0.5), prior)
    assert math.isclose(found.mse_floor, dense_floor(matrix, 0.5, torch.block_diag(law, law)), rel_tol=1e-9)
    with pytest.raises(BadInput, match="divides the batch's 7"):
        van_trees(information(random(3, 7), 1.0), prior)


def test_a_partial_spectrum_gives_a_lower_floor() -> None:
    space = gl.ImageSpace((1, 6, 6))
    prior = smoothness_prior(space)
    matrix = random(50, 36, seed=2) @ torch.diag(torch.logspace(0, -2, 36, dtype=torch.float64))
    for std in (1e-2, 1.0, 1e2):
        whole = information(matrix, std)
        floor = van_trees(whole, prior).mse_floor
        trace = Estimate(whole.mean(), 0.0)
        floors = [
            van_trees(
                FisherInformation(whole.values[:count], whole.vectors[:, :count], exact=False), prior, trace=trace
            ).mse_floor
            for count in (1, 10, 36)
        ]
        assert 0 < floors[0] <= floors[1] * (1 + 1e-9)
        assert floors[1] <= floor * (1 + 1e-9)
        # Nothing is left to the trace.
        assert math.isclose(floors[2], floor, rel_tol=1e-6)
    with pytest.raises(BadInput, match="the whole spectrum"):
        van_trees(FisherInformation(whole.values, whole.vectors, exact=False), prior)


@pytest.mark.parametrize("shape", [(3, 9, 9), (1, 8, 12)])
def test_axes_of_smooth_images_are_orthonormal_and_scale_with_the_bounds(shape: tuple[int, int, int]) -> None:
    prior = smoothness_prior(gl.ImageSpace(shape))
    size = math.prod(shape)
    pixels = torch.eye(size, dtype=torch.float64)
    axes = prior.to_axes(pixels)
    assert torch.allclose(axes.T @ axes, pixels, atol=1e-12)
    assert torch.allclose(prior.from_axes(axes), pixels, atol=1e-12)
    doubled = smoothness_prior(gl.ImageSpace(shape, bounds=(-1.0, 1.0)))
    assert torch.allclose(doubled.variances, 4 * prior.variances)
    assert torch.allclose(doubled.mean, 2 * prior.mean - 1)


@pytest.mark.parametrize("side", [16, 48])
def test_smooth_images_are_what_photographs_are_in_the_mean(side: int) -> None:
    # Crops on which no constant was measured.
    crops = photographs(side, 100, seed=1).inputs.double()
    prior = smoothness_prior(gl.ImageSpace((3, side, side)))
    assert torch.allclose(prior.mean.mean(dim=(1, 2)), crops.mean(dim=(0, 2, 3)), atol=0.03)
    powers = prior.to_axes((crops - prior.mean).reshape(100, -1).T).square().mean(dim=1).view(3, side, side)
    wanted = prior.variances.view(3, side, side)
    length = torch.hypot(torch.arange(side)[:, None].double(), torch.arange(side).double())
    for first in (1, 2, 4, 8):
        octave = (length >= first) & (length < 2 * first)
        ratios = powers[:, octave].sum(dim=1) / wanted[:, octave].sum(dim=1)
        assert float(ratios.log().abs().max()) < math.log(2)
    assert abs(float(powers.sum() / wanted.sum()) - 1) < 0.2


def test_public_images_give_back_their_covariance() -> None:
    law = covariance(6, seed=5, ratio=0.05)
    drawn = 2 + random(20000, 6, seed=9) @ torch.linalg.cholesky(law).T
    prior = estimated_prior(drawn)
    assert torch.allclose(prior.covariance, law, atol=0.03)
    assert torch.allclose(prior.mean, torch.full((6,), 2.0, dtype=torch.float64), atol=0.03)
    smooth = smoothness_prior(gl.ImageSpace((1, 6, 6)))
    axes = random(36, 60, seed=3) * smooth.variances.sqrt()[:, None]
    few = smooth.from_axes(axes).T.reshape(60, 1, 6, 6)
    # With few images what is certain is the target: smooth images.
    found = smooth.to_axes(smooth.to_axes(estimated_prior(few).covariance).T)
    assert float((found.diagonal() / smooth.variances).log().abs().max()) < 0.5
    with pytest.raises(BadInput, match="at least 50 public inputs, got 49"):
        estimated_prior(drawn[:49])


def test_bad_covariances_are_refused() -> None:
    with pytest.raises(BadInput, match=r"covariance: expected \[3, 3\]"):
        GaussianPrior(torch.zeros(3), torch.eye(2))
    with pytest.raises(BadInput, match="symmetric"):
        GaussianPrior(torch.zeros(2), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(BadInput, match="eigenvalues of at least 0"):
        GaussianPrior(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(BadInput, match="1 or 3 channels"):
        smoothness_prior(gl.TabularSpace(4))


def test_both_ceilings_stand_side_by_side() -> None:
    task = gl.Task(lenet(input_size=8, width=2), gl.ImageSpace((3, 8, 8)), num_classes=10)
    inputs, targets = images(2, (3, 8, 8)), torch.tensor([1, 2])

    def bound(std: float, **settings: float) -> gl.LeakageBound:
        return gl.leakage_bound(task, inputs, targets, defenses=[GaussianNoise(std)], **settings)  # pyright: ignore[reportArgumentType]

    found = [bound(std) for std in (0.0, 1e-3, 1e-1)]
    assert [one.prior for one in found] == ["smooth images"] * 3
    assert all(one.prior_psnr_ceiling > another.prior_psnr_ceiling for one, another in pairwise(found))
    assert all(one.prior_psnr_ceiling >= one.precision_ceiling for one in found)
    assert any("van Trees" in sentence for sentence in found[1].assumptions)
    assert any("Without noise, the rounding" in sentence for sentence in found[0].assumptions)
    part = bound(1e-3, exact_unknowns=0)
    assert part.status == "partial"
    assert part.prior_pixel_std is None
    assert math.isnan(part.prior_spread)
    assert found[1].prior_psnr_ceiling <= part.prior_psnr_ceiling < math.inf
    off = gl.leakage_bound(task, inputs, targets, prior=None)
    assert (off.prior, math.isnan(off.prior_psnr_ceiling)) == (None, True)
    assert not any("van Trees" in sentence for sentence in off.assumptions)
