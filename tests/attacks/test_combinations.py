"""Every objective runs with every prior, every label part and both optimizers, and every term pulls on the image."""

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import OBJECTIVES, Objective
from gradleak.attacks.priors import (
    Prior,
    Weighted,
    batch_norm_statistics,
    euclidean_norm,
    group_consistency,
    task_loss,
    total_variation,
)
from gradleak.attacks.searched_targets import LabelPart
from gradleak.optim import LBFGS, Adam, Optimizer
from gradleak.threat import simulator
from tests.problems import images, labels, normed_net

PRIORS = [total_variation, euclidean_norm, task_loss, batch_norm_statistics]
PARTS: list[LabelPart] = ["joint", "row_sum_sign", "bias_sign", "row_minimum"]
OPTIMIZERS: list[Optimizer] = [LBFGS(outer_steps=1, inner_steps=2), Adam(2, lr=0.01)]


def observe(count: int) -> gl.Observation:
    task = gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=10)
    return gl.capture(task, images(count), labels(count))[0]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: getattr(one, "__name__", type(one).__name__))
def test_every_combination_is_built_and_steps(objective: Objective) -> None:
    observation = observe(1)
    for prior in PRIORS:
        for part in PARTS:
            for optimizer in OPTIMIZERS:
                attack = Inversion(
                    name="combination",
                    objective=objective,
                    optimizer=lambda _count, chosen=optimizer: chosen,
                    labels=part,
                    priors=(Weighted(1e-3, prior),),
                    group_weight=1e-3,
                    restarts=2,
                    max_evaluations=6,
                )
                result = attack(observation)
                assert result.status in {"budget", "converged"}
                assert result.evaluations > 2
                assert bool(torch.isfinite(result.variable).all())


@pytest.mark.parametrize("prior", PRIORS, ids=lambda one: one.__name__)
def test_every_prior_has_a_gradient(prior: Prior) -> None:
    observation = observe(2)
    variable = images(2, seed=5).requires_grad_()
    value = prior(observation)(variable, observation.task.target_probabilities(labels(2)))
    (gradient,) = torch.autograd.grad(value, variable)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient.flatten(1).norm(dim=1) > 1e-8).all())


def test_every_term_of_gradinversion_has_a_gradient() -> None:
    attack, observation = gl.attacks.gradinversion(), observe(2)
    targets = observation.task.target_probabilities(labels(2))
    variable = images(2, seed=5).requires_grad_()
    matching = attack.objective(simulator(observation)(variable, targets), observation.update.tensors)
    terms = [matching, *(part.weight * part.prior(observation)(variable, targets) for part in attack.priors)]
    assert len(terms) == 4
    for term in terms:
        (gradient,) = torch.autograd.grad(term, variable)
        assert float(gradient.norm()) > 1e-9
    together = torch.stack([images(2, seed=seed).flatten() for seed in range(4)]).requires_grad_()
    (gradient,) = torch.autograd.grad(attack.group_weight * group_consistency(together).sum(), together)
    assert bool((gradient.norm(dim=1) > 1e-6).all())
