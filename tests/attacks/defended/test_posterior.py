"""The most probable batch: its weights by hand, its limits, and what the prior and the known defense add."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.defended.clipped import clipping
from gradleak.attacks.defended.leftover import as_rounded, undefended
from gradleak.attacks.defended.likelihood import Noise, expected_misfit, known_noise
from gradleak.attacks.defended.most_probable import MaximumAPosteriori
from gradleak.attacks.defended.natural_images import contrasts, difference_lengths, natural_images
from gradleak.attacks.defended.posterior import Posterior
from gradleak.attacks.defended.rescaling import rescaled
from gradleak.attacks.labels import leading_row
from gradleak.attacks.objectives import normalized_squared_distance
from gradleak.attacks.one_gradient import as_gradient
from gradleak.attacks.surrogate import surrogate_gradient
from gradleak.defenses import Defense, GaussianNoise, TopK
from gradleak.seeds import stage_generator
from gradleak.updates import UpdateKind
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet
from tests.problems import images, labels, small_lenet


def photograph(*defenses: Defense, known: bool = True) -> tuple[gl.Observation, gl.Truth]:
    inputs, targets = load("photographs", size=16).sample(1, seed=3)
    threat = gl.ThreatModel(defense_known=known)
    model = lenet(10, input_size=16, seed=4)
    task = gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    return gl.capture(task, inputs, targets, defenses=list(defenses), threat=threat, seed=2)


def psnr(attack: gl.attacks.Attack, pair: tuple[gl.Observation, gl.Truth]) -> float:
    return gl.score(attack(pair[0]), pair[1]).median("psnr")


def attack(**settings: bool) -> gl.attacks.Attack:
    return gl.attacks.maximum_a_posteriori(max_evaluations=500, **settings)


def test_noises_add_by_their_variances() -> None:
    observation, _ = gl.capture(
        small_lenet(), images(2), labels(2), defenses=[GaussianNoise(0.3), TopK(0.5), GaussianNoise(0.4)]
    )
    assert known_noise(observation).std == pytest.approx(0.5)
    blind = replace(observation, defenses=None)
    assert known_noise(blind).std == 0


def test_dp_sgd_adds_its_multiplier_times_the_clip_over_the_batch() -> None:
    client = gl.clients.DPSGD(clip=2.0, noise_multiplier=0.6)
    observation, _ = gl.capture(small_lenet(), images(4), labels(4), client=client)
    assert known_noise(observation).std == pytest.approx(0.6 * 2.0 / 4)


def test_costs_are_twice_the_variance_times_the_log_likelihood() -> None:
    missed = {"a": torch.tensor([0.5, -1.0], dtype=torch.float64), "b": torch.tensor([2.0], dtype=torch.float64)}
    assert float(Noise(0.7).cost(missed)) == pytest.approx(0.25 + 1 + 4)
    std = 0.01  # far below the misses, so that the rounded corner is a small constant
    scale = std / math.sqrt(2)
    exact = 2 * std**2 * (0.5 + 1 + 2) / scale
    assert float(Noise(std, "laplace").cost(missed)) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_noise_alone_stays_below_the_expected_misfit(law: str) -> None:
    generator = stage_generator(0, "noise")
    sums: list[float] = []
    for _ in range(200):
        drawn = torch.randn(500, generator=generator)
        if law == "laplace":
            uniform = torch.rand(500, generator=generator) - 0.5
            drawn = -uniform.sign() * torch.log1p(-2 * uniform.abs()) / math.sqrt(2)
        sums.append(float((0.1 * drawn).square().sum()))
    limit = expected_misfit(Noise(0.1, law), 500)  # pyright: ignore[reportArgumentType]
    assert sum(value <= limit for value in sums) >= 194
    assert limit < 1.6 * sum(sums) / len(sums)


def test_prior_is_homogeneous_and_counts_the_unknowns_of_public_photographs() -> None:
    space = gl.ImageSpace((3, 32, 32))
    prior = natural_images(space)
    assert prior is not None
    public = load("photographs").inputs.double()
    # By its calibration the mean over public images is the number of unknowns.
    assert float(prior(public)) / public.numel() == pytest.approx(1, abs=0.03)
    assert float(prior(public / 2)) / float(prior(public)) == pytest.approx(0.5, abs=0.02)
    assert float(prior(torch.rand(1, 3, 32, 32, generator=stage_generator(0, "x")).double())) > 5 * 3072
    assert natural_images(gl.TabularSpace(5)) is None


def test_contrasts_are_orthonormal_and_flat_images_have_no_differences() -> None:
    pixels = images(2)
    assert float(contrasts(pixels).norm()) == pytest.approx(float(pixels.norm()))
    first, second = difference_lengths(torch.full((1, 2, 5, 5), 0.3, dtype=torch.float64))
    assert float(first.max()) == float(second.max()) == pytest.approx(1e-3)


def test_without_noise_and_defense_the_objective_is_the_undefended_one() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    posterior = Posterior.of(observation)
    candidate, targets = images(1, seed=5), observation.task.target_probabilities(labels(1))
    plain = normalized_squared_distance(posterior.step(candidate, targets), posterior.observed)
    assert torch.equal(posterior.value(candidate, targets, 0.0), plain)
    noisy = replace(posterior, noise=Noise(1e-9))
    assert float(noisy.value(candidate, targets, noisy.level)) == pytest.approx(float(plain), rel=1e-6)
    assert MaximumAPosteriori(prior=False).schedule(posterior)[-1] == 0.0


def test_posterior_weighs_the_prior_by_the_variance() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1), defenses=[GaussianNoise(1e-3)])
    posterior = Posterior.of(observation)
    candidate, targets = images(1, seed=5), observation.task.target_probabilities(labels(1))
    missed = posterior.misfit(candidate, targets) * posterior.norm
    prior = natural_images(observation.task.space)
    assert prior is not None
    by_hand = (missed + 2 * 1e-6 * posterior.temper(posterior.level) * float(prior(candidate))) / posterior.norm
    assert float(posterior.value(candidate, targets, posterior.level)) == pytest.approx(by_hand)


def test_prior_helps_against_noise() -> None:
    pair = photograph(GaussianNoise(1e-2))
    assert psnr(attack(), pair) > psnr(attack(prior=False), pair) + 6


def test_knowing_the_defense_helps_and_the_portfolio_uses_it() -> None:
    known, blind = photograph(TopK(0.3)), photograph(TopK(0.3), known=False)
    portfolio = gl.attacks.auto(max_seconds=None, max_evaluations=600)
    result = portfolio(known[0])
    assert "by maximum_a_posteriori" in result.message
    assert gl.score(result, known[1]).median("psnr") > psnr(portfolio, blind) + 10


def test_portfolio_stops_at_the_noise() -> None:
    observation, _ = photograph(GaussianNoise(1e-2))
    result = gl.attacks.auto(max_seconds=20)(observation)
    assert result.trace[-1] == "stopped: the update is explained as well as its noise allows"
    assert result.seconds < 15


def test_defenses_that_change_nothing_are_left_out() -> None:
    observation, _ = photograph(TopK(1.0), GaussianNoise(0.0))
    assert undefended(observation).defenses == ()
    assert undefended(photograph(TopK(0.5))[0]).defenses == (TopK(0.5),)
    result = gl.attacks.auto()(observation)
    assert "by layer_recursion" in result.message


@dataclass(frozen=True)
class Cells:
    """Rounding to a grid."""

    step: float

    def problems(self) -> list[str]:
        return []

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        del kind, generator
        return {name: (tensor / self.step).round() * self.step for name, tensor in tensors.items()}

    def preimage(self, after: gl.defenses.Preimage) -> gl.defenses.Preimage:
        return after.widened(lambda _, low, high: (low - self.step / 2, high + self.step / 2))


def test_fine_rounding_becomes_coarseness_and_coarse_does_not() -> None:
    observation, _ = photograph()
    tensors = Cells(1e-5).apply(dict(observation.update.tensors), "gradient", None)
    sent = replace(observation.update, tensors=tensors)
    fine = as_rounded(replace(observation, update=sent, defenses=(Cells(1e-5),)))
    assert fine is not None
    smallest = min(float(tensor.square().mean().sqrt()) for tensor in tensors.values())
    assert fine.update.coarseness == pytest.approx(1e-5 / math.sqrt(12) / smallest, rel=1e-3)
    assert fine.defenses == ()
    assert as_rounded(replace(observation, update=sent, defenses=(Cells(1.0),))) is None


def test_label_from_the_leading_row_survives_noise_pruning_and_signs() -> None:
    generator = stage_generator(1, "rows")
    for label in range(10):
        residual = torch.softmax(torch.randn(10, generator=generator), dim=0)
        residual[label] -= 1
        features = torch.randn(200, generator=generator)
        weight = residual[:, None] * features
        assert leading_row(weight, residual) == leading_row(weight) == label
        noise = 0.5 * torch.randn(10, 201, generator=generator)
        assert leading_row(weight + noise[:, 1:], residual + noise[:, 0]) == label
        assert leading_row(weight.sign(), residual.sign()) == label
        assert leading_row(weight * (weight.abs() > weight.abs().quantile(0.95)), 0 * residual) == label


def test_defenses_follow_the_scale_of_one_local_step() -> None:
    client = gl.clients.LocalSGD(lr=0.1)
    observation, _ = gl.capture(
        small_lenet(), images(1), labels(1), client=client, defenses=[TopK(0.5), GaussianNoise(0.02)]
    )
    reduced = as_gradient(observation)
    assert isinstance(reduced, gl.Observation)
    assert reduced.defenses == (TopK(0.5), GaussianNoise(1 / 0.1 * 0.02))
    assert surrogate_gradient(observation).defenses == (TopK(0.5), GaussianNoise(1 / 0.1 * 0.02))
    assert rescaled([Cells(0.1)], 2.0) is None
    decayed = gl.clients.LocalSGD(lr=0.1, weight_decay=0.01)
    other, _ = gl.capture(small_lenet(), images(1), labels(1), client=decayed, defenses=[TopK(0.5)])
    assert isinstance(as_gradient(other), str)
    assert surrogate_gradient(other).defenses == ()


@dataclass(frozen=True)
class Shorten:
    """Divide by the norm where it exceeds a limit."""

    limit: float

    def problems(self) -> list[str]:
        return []

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        del kind, generator
        norm = torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt()
        factor = (self.limit / norm).clamp(max=1)
        return {name: tensor * factor for name, tensor in tensors.items()}


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_clipping_of_one_example_hides_nothing(limit: float) -> None:
    pair = photograph(Shorten(limit))
    reduced = as_gradient(pair[0])
    assert isinstance(reduced, gl.Observation)
    assert reduced.defenses == ()
    exact = photograph()[0].update.tensors
    for name, tensor in reduced.update.tensors.items():
        torch.testing.assert_close(tensor, exact[name], rtol=1e-4, atol=1e-6)
    assert psnr(gl.attacks.auto(), pair) > 60


def test_defenses_that_change_directions_are_no_clipping() -> None:
    observation, _ = photograph()
    for defense in (TopK(0.5), Cells(0.1), GaussianNoise(0.1)):
        assert clipping(defense, observation.update) is None
