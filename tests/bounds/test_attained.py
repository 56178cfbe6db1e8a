"""Linear problems, where the floor is attained by an estimate that is known: Monte Carlo within three sigma."""

import math

import pytest
import torch

import gradleak as gl
from gradleak.defenses import Clip, GaussianNoise, LaplaceNoise
from tests.bounds.linear import Linear, problem


def test_least_squares_attains_the_floor_under_gaussian_noise() -> None:
    task, inputs, targets, client = problem(40, 12)
    bound = gl.leakage_bound(task, inputs, targets, client=client, defenses=[GaussianNoise(0.3)])
    generator = torch.Generator().manual_seed(5)
    clean = client.matrix @ inputs[0]
    sent = clean + 0.3 * torch.randn(4000, 40, generator=generator, dtype=torch.float64)
    errors = sent @ torch.linalg.pinv(client.matrix).T - inputs
    mse = errors.square().mean(dim=1)
    assert abs(float(mse.mean()) - bound.mse_floor) < 3 * float(mse.std()) / 4000**0.5
    assert math.isclose(bound.psnr_ceiling, -10 * math.log10(bound.mse_floor))
    # The map of standard deviations, of which each has a relative error of 1 / sqrt(2 * 4000).
    ratios = errors.std(dim=0) / bound.pixel_std[0]
    assert float((ratios - 1).abs().max()) < 4 / 8000**0.5
    assert bound.status == "bounded"
    assert (bound.unknowns, bound.equations) == (12, 40)


def test_the_median_comes_to_the_floor_under_laplace_noise() -> None:
    task, inputs, targets, _ = problem(1001, 1)
    client = Linear(torch.ones(1001, 1, dtype=torch.float64))
    scale = 0.2
    bound = gl.leakage_bound(task, inputs, targets, client=client, defenses=[LaplaceNoise(scale)])
    assert math.isclose(bound.mse_floor, scale**2 / 1001, rel_tol=1e-9)
    pair = torch.empty(2, 3000, 1001, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(1))
    squares = (scale * (pair[0] - pair[1])).median(dim=1).values.square()
    # The median is the most likely value; it attains the floor in the limit, within some 3 % at 1001 equations.
    assert abs(float(squares.mean()) / bound.mse_floor - 1) < 3 * (2 / 3000) ** 0.5 + 0.04
    # Least squares, with the variance 2 scale^2, stays at twice the floor.
    assert float((scale * (pair[0] - pair[1])).mean(dim=1).var()) > 1.8 * bound.mse_floor


def test_clipping_takes_the_radial_direction() -> None:
    task, inputs, targets, client = problem(8, 8)
    free = gl.leakage_bound(task, inputs, targets, client=client, defenses=[GaussianNoise(0.1)])
    clipped = gl.leakage_bound(task, inputs, targets, client=client, defenses=[Clip(0.5), GaussianNoise(0.1)])
    idle = gl.leakage_bound(task, inputs, targets, client=client, defenses=[Clip(1e3), GaussianNoise(0.1)])
    assert idle.psnr_ceiling == free.psnr_ceiling > 0
    update = client.matrix @ inputs[0]
    along = update / update.norm()
    wanted = 0.5 / update.norm() * (client.matrix - along[:, None] * (along @ client.matrix))
    assert torch.allclose(clipped.singular_values, torch.linalg.svdvals(wanted), atol=1e-10)
    assert (clipped.status, clipped.free_directions, clipped.rank) == ("free_directions", 1, 7)
    assert clipped.mse_floor == math.inf
    assert clipped.psnr_ceiling == -math.inf
    assert 0 < clipped.identifiable_mse_floor < math.inf
    assert bool(clipped.pixel_std.isinf().all())
    # With more equations than unknowns the scale is still seen in what is left.
    task, inputs, targets, client = problem(9, 4)
    more = [
        gl.leakage_bound(task, inputs, targets, client=client, defenses=[clip, GaussianNoise(0.1)]).psnr_ceiling
        for clip in (Clip(1e3), Clip(float((client.matrix @ inputs[0]).norm()) * 0.999))
    ]
    assert more[1] < more[0]


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_decibels_do_not_depend_on_the_unit(scale: float) -> None:
    task, inputs, targets, client = problem(20, 5)
    task = gl.Task(task.model, gl.TabularSpace(5, bounds=(0.0, scale)), 20)
    bound = gl.leakage_bound(
        task,
        inputs * scale,
        targets,
        client=Linear(client.matrix / scale),
        defenses=[GaussianNoise(0.05)],
    )
    reference = 0.05**2 * float(torch.linalg.inv(client.matrix.T @ client.matrix).trace()) / 5
    assert math.isclose(bound.psnr_ceiling, -10 * math.log10(reference), rel_tol=1e-9)
    assert math.isclose(bound.mse_floor, reference * scale**2, rel_tol=1e-9)


def test_the_recoverable_share_counts_steps_of_eight_bits() -> None:
    task, inputs, targets, _ = problem(4, 4)
    # With noise of one step, directions that are amplified are recoverable, and the one that is not is not.
    client = Linear(torch.diag(torch.tensor([4.0, 2.0, 1.001, 0.999], dtype=torch.float64)))
    bound = gl.leakage_bound(task, inputs, targets, client=client, defenses=[GaussianNoise(1 / 255)])
    assert bound.recoverable == 0.75
    assert torch.allclose(bound.pixel_std[0] * 255, 1 / client.matrix.diagonal())
    assert math.isclose(bound.fisher_trace, 255**2 * float(client.matrix.square().sum()) / 4)
