"""The prior of photographs as a Gaussian: against the attack's own prior, and what it grants."""

import math

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.defended.natural_images import FLAT, natural_images, usual_lengths
from gradleak.bounds import Prior, photograph_prior, smoothness_prior
from gradleak.bounds.chosen_prior import PriorName
from gradleak.defenses import GaussianNoise
from gradleak.errors import BadInput
from gradleak.tasks import InputSpace
from gradleak.zoo.data import photographs
from gradleak.zoo.models import lenet

GREY, COLOR = gl.ImageSpace((1, 6, 7)), gl.ImageSpace((3, 6, 7))


def inside(space: gl.ImageSpace, count: int = 1, seed: int = 0) -> Tensor:
    """Images without a value on a bound."""
    low, high = space.bounds
    drawn = torch.rand(count, *space.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * (0.1 + 0.8 * drawn)


def mean_part(space: gl.ImageSpace) -> Tensor:
    """The precision of the mean of each plane, by the definition of the smooth prior: its frequencies zero."""
    smooth = smoothness_prior(space)
    pixels = torch.eye(math.prod(space.shape), dtype=torch.float64)
    weights = torch.zeros(space.shape, dtype=torch.float64)
    weights[:, 0, 0] = 1 / smooth.variances.view(space.shape)[:, 0, 0]
    return smooth.from_axes(weights.flatten()[:, None] * smooth.to_axes(pixels))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 6, 7)])
def test_the_gradient_of_the_attacks_prior_is_precision_times_image(
    shape: tuple[int, int, int], bounds: tuple[float, float]
) -> None:
    space = gl.ImageSpace(shape, bounds=bounds)
    image = inside(space).requires_grad_()
    implausibility = natural_images(space)
    assert implausibility is not None
    (gradient,) = torch.autograd.grad(implausibility(image), image)
    precision = torch.linalg.inv(photograph_prior(space, image).covariance) - mean_part(space)
    assert float((precision @ image.detach().flatten() - gradient.flatten()).norm() / gradient.norm()) < 1e-9


def test_the_gaussian_touches_the_attacks_prior_from_below() -> None:
    # Half-quadratic: the parabola is above everywhere, which no other weights with the same gradient are.
    image, implausibility = inside(COLOR), natural_images(COLOR)
    assert implausibility is not None
    precision = torch.linalg.inv(photograph_prior(COLOR, image).covariance) - mean_part(COLOR)

    def above(other: Tensor) -> float:
        quadratic = 0.5 * (
            other.flatten() @ precision @ other.flatten() - image.flatten() @ precision @ image.flatten()
        )
        return float(quadratic - implausibility(other) + implausibility(image))

    for seed in range(1, 6):
        assert above(inside(COLOR, seed=seed)) > 0
        assert 0 <= above(image + 1e-2 * (inside(COLOR, seed=seed) - image)) < 1e-2 * above(inside(COLOR, seed=seed))


@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 6, 7)])
def test_it_scales_with_the_range(shape: tuple[int, int, int]) -> None:
    image = inside(gl.ImageSpace(shape))
    image[0, 0, 2, 3:5] = torch.tensor([0.0, 1.0])
    unit = photograph_prior(gl.ImageSpace(shape), image)
    for low, high in ((-1.0, 1.0), (0.0, 255.0)):
        other = photograph_prior(gl.ImageSpace(shape, bounds=(low, high)), low + (high - low) * image)
        assert torch.allclose(other.covariance, (high - low) ** 2 * unit.covariance, rtol=1e-9)


def test_values_on_a_bound_are_known_and_tell_about_their_neighbors() -> None:
    image = inside(COLOR)
    free = photograph_prior(COLOR, image).covariance
    known = torch.zeros(COLOR.shape, dtype=torch.bool)
    known[0, 2, 3] = known[2, 5, 6] = known[1, 0, 0] = True
    image[0, 0, 2, 3], image[0, 2, 5, 6], image[0, 1, 0, 0] = 0.0, 1.0, 1 / 512
    found = photograph_prior(COLOR, image).covariance
    assert torch.equal(found.diagonal() == 0, known.flatten())
    assert float(found[known.flatten()].abs().max()) == 0
    # Given three values, nothing is known less than without; edges differ a little.
    assert float(found.trace()) < float(free.trace())


def test_a_batch_is_independent_images() -> None:
    batch = inside(GREY, 3)
    batch[1] = 1.0  # white, of which all is known
    whole = photograph_prior(GREY, batch).covariance
    parts = [photograph_prior(GREY, image[None]).covariance for image in batch]
    assert torch.equal(whole, torch.block_diag(*parts))
    assert float(parts[1].abs().max()) == 0


def test_edges_are_granted_and_flat_regions_are_known_closely() -> None:
    halves = torch.full((1, 1, 8, 8), 0.3, dtype=torch.float64)
    halves[..., 4:] = 0.7
    law = photograph_prior(gl.ImageSpace((1, 8, 8)), halves).covariance

    def step(one: tuple[int, int], other: tuple[int, int]) -> float:
        first, second = one[0] * 8 + one[1], other[0] * 8 + other[1]
        return float(law[first, first] + law[second, second] - 2 * law[first, second]) ** 0.5

    assert step((4, 1), (4, 2)) < 1 / 100
    # Across the edge nearly its whole height is open.
    assert step((4, 3), (4, 4)) > 10 * step((4, 1), (4, 2))


@pytest.mark.parametrize(
    ("space", "inputs", "message"),
    [
        (gl.TabularSpace(9), torch.rand(2, 9), "1 or 3 channels of at least 2 x 2 pixels"),
        (gl.ImageSpace((2, 4, 4)), torch.rand(1, 2, 4, 4), "1 or 3 channels of at least 2 x 2 pixels"),
        (gl.ImageSpace((1, 1, 9)), torch.rand(1, 1, 1, 9), "1 or 3 channels of at least 2 x 2 pixels"),
        (gl.ImageSpace((1, 64, 64)), torch.rand(2, 1, 64, 64), "at most 4096 values .* got 8192"),
        (gl.ImageSpace((3, 4, 4)), torch.rand(1, 1, 4, 4), r"images of shape \[3, 4, 4\]"),
    ],
)
def test_what_it_is_not_for_is_refused_in_one_sentence(space: InputSpace, inputs: Tensor, message: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        photograph_prior(space, inputs)
    assert len(refused.value.problems) == 1


def test_it_is_a_prior_of_leakage_bound_by_its_name() -> None:
    space = gl.ImageSpace((3, 8, 8))
    task = gl.Task(lenet(input_size=8, width=2), space, num_classes=10)
    inputs, targets = photographs(8, 20).inputs[:2].double(), torch.tensor([1, 2])

    def bound(prior: Prior | PriorName, **settings: float) -> gl.LeakageBound:
        return gl.leakage_bound(task, inputs, targets, defenses=[GaussianNoise(1e-2)], prior=prior, **settings)  # pyright: ignore[reportArgumentType]

    found = bound("photographs")
    assert found.prior == "photographs, edges known"
    # Of the batch as a whole, where other priors are of one input.
    assert found.prior_psnr_ceiling == bound(photograph_prior(space, inputs)).prior_psnr_ceiling
    assert found.prior_psnr_ceiling > bound("smoothness").prior_psnr_ceiling > found.psnr_ceiling
    words = " ".join(found.assumptions)
    assert "no more than the prior of photographs that maximum_a_posteriori and auto use" in words
    assert "knows more (a generative model" in words
    assert "Gaussian (van Trees)" not in words
    part = bound("photographs", exact_unknowns=0)
    assert found.prior_psnr_ceiling <= part.prior_psnr_ceiling < math.inf


def test_leakage_bound_refuses_what_has_no_such_prior() -> None:
    large = gl.Task(nn.Sequential(nn.Flatten(), nn.Linear(4225, 2)), gl.ImageSpace((1, 65, 65)), 2)
    with pytest.raises(BadInput, match="at most 4096 values .* take the smoothness prior, or fewer or smaller"):
        gl.leakage_bound(large, torch.rand(1, 1, 65, 65), torch.tensor([0]), prior="photographs")
    rows = gl.Task(nn.Linear(4, 2), gl.TabularSpace(4), 2)
    with pytest.raises(BadInput, match="of shape \\[4\\]; take None"):
        gl.leakage_bound(rows, torch.rand(1, 4), torch.tensor([0]), prior="photographs")
    with pytest.raises(BadInput) as refused:
        gl.leakage_bound(rows, torch.rand(1, 4), torch.tensor([0]), prior="sharp", max_seconds=0)  # pyright: ignore[reportArgumentType]
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["max_seconds", "prior"]


# ---- images of two by two pixels, drawn from the attack's prior, whose posterior is summed over a grid ---------------

TINY = gl.ImageSpace((1, 2, 2))
REACH, POINTS = 1.2, 61
# Orthonormal, without the mean of the plane, of which the attack's prior says nothing and which is independent.
TURN = torch.tensor([[1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64) / 2


def grid() -> tuple[Tensor, Tensor]:
    """Points `[n, 3]` in the coordinates of `TURN`, and the log of the attack's prior there."""
    axis = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis, axis)
    first, second = usual_lengths(TINY)
    a, b, c, d = (points @ TURN).unbind(dim=1)
    # Written out from the definition: differences across and down at each pixel, zero at the border.
    across, down = ((b - a), (d - c)), ((c - a), (d - b))
    pairs = ((across[0], down[0]), (torch.zeros_like(a), down[1]), (across[1], torch.zeros_like(a)))
    lengths = torch.stack([(x.square() + y.square() + FLAT).sqrt() for x, y in pairs]).sum(dim=0)
    # Second differences: the border's zero less the last difference.
    twice, twice_down, mixed = (-across[0], -across[1]), (-down[0], -down[1]), across[1] - across[0]
    bends = (
        (twice[0].square() + 2 * mixed.square() + twice_down[0].square() + FLAT).sqrt()
        + (twice_down[1].square() + FLAT).sqrt()
        + (twice[1].square() + FLAT).sqrt()
    )
    return points, -0.5 * (lengths / first[0] + bends / second[0])


@pytest.mark.parametrize("std", [0.05, 0.2])
def test_nobody_with_the_attacks_prior_is_closer_than_the_floor(std: float) -> None:
    points, log_prior = grid()
    implausibility = natural_images(TINY)
    assert implausibility is not None
    some = torch.arange(0, len(points), 40001)
    images = 0.5 + (points[some] @ TURN).view(-1, 1, 2, 2)
    own = torch.stack([implausibility(image[None]) for image in images])
    assert torch.allclose(own - own[0], -(log_prior[some] - log_prior[some][0]), atol=1e-9)

    generator = torch.Generator().manual_seed(1)
    drawn = points[torch.multinomial(log_prior.exp(), 150, replacement=True, generator=generator)]
    seen = drawn + std * torch.randn(drawn.shape, generator=generator, dtype=torch.float64)
    away = seen.square().sum(dim=1)[:, None] - 2 * seen @ points.T + points.square().sum(dim=1)
    weights = (log_prior - away / (2 * std**2)).softmax(dim=1)
    least = (weights @ points.square() - (weights @ points).square()).sum(dim=1)  # of all estimates
    floors: list[float] = []
    for image in 0.5 + (drawn @ TURN).view(-1, 1, 1, 2, 2):
        covariance = TURN @ photograph_prior(TINY, image).covariance @ TURN.T
        floors.append(float(torch.linalg.inv(torch.linalg.inv(covariance) + torch.eye(3) / std**2).trace()))
    gaps = least - torch.tensor(floors)
    assert float(gaps.mean()) > 3 * float(gaps.std()) / len(gaps) ** 0.5
    # And not by being empty: of what is left to the best estimate the floor is a good part.
    assert sum(floors) > 0.4 * float(least.sum())
