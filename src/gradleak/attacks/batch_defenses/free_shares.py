"""Every share of a mixed batch from the gradient of a softmax head, where the defense draws one for each.

Beside the N x N unknowns of the features (see `closed_form.separation`) there are N - 1 free shares a row, by label.
The (C - 1)(N + 1) equations exceed them for small N, but have local minima that MixUp's single share does not have.
"""

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.closed_form.separation import Separation
from gradleak.attacks.closed_form.separation_equations import HeadProblem, SeparationEquations
from gradleak.optim import LevenbergMarquardt, Limits
from gradleak.seeds import stage_generator

_STARTS = 24
_PRODUCTS = 3000
_SETTLED = 0.1


@dataclass(frozen=True, eq=False)
class Shares:
    """What the head's equations say about a batch in which every mixture has shares of its own.

    Attributes:
        separation: features of every mixture.
        labels: of the private examples, `[N]`.
        shares: of every private example in every mixture, `[N, N]`.
    """

    separation: Separation
    labels: Tensor
    shares: Tensor

    def targets(self, classes: Tensor) -> Tensor:
        """The mixed targets `[N, C]`, of the targets of every class `[C, C]`."""
        return self.shares @ classes[self.labels]


def separate_shares(
    problem: HeadProblem, labels: Tensor, classes: Tensor, *, seed: int = 0, deadline: float = math.inf
) -> Shares:
    """Solve for the features of every mixture and its share of every label.

    Args:
        problem: the equations; their targets are not used.
        labels: of the private examples, all different, `[N]`.
        classes: what the loss pulls each class towards, `[C, C]`.
        seed: of the starts.
        deadline: reading of `time.perf_counter` after which the best so far is returned.

    Returns:
        The best found; `separation.certified` says whether the equations hold.
    """
    count, equations = len(labels), SeparationEquations(problem)
    spread, targets = equations.prior.sqrt(), classes[labels]
    generator = stage_generator(seed, "free_shares")

    def parts(point: Tensor) -> tuple[Tensor, Tensor]:
        mixture, logits = point.split(count * count)
        return mixture.view(count, count), torch.softmax(logits.view(count, count), dim=1)

    def residual(point: Tensor) -> Tensor:
        mixture, shares = parts(point)
        probabilities = torch.softmax(mixture @ equations.logits + problem.bias, dim=1)
        rows = problem.scales[:, None] * (probabilities - shares @ targets)
        weight = (rows.T @ mixture - equations.observed) / equations.sigma_weight
        bias = (rows.sum(dim=0) - problem.bias_gradient) / equations.sigma_bias
        away = (mixture - equations.center) * spread
        return torch.cat([weight.flatten(), bias, away.flatten()]) / equations.count**0.5

    best, least = torch.zeros(2 * count * count).double(), math.inf
    for start in range(_STARTS):
        if start and time.perf_counter() >= deadline:
            break
        logits = torch.randn((count, count), generator=generator, dtype=torch.float64)
        equations.problem = replace(problem, targets=torch.softmax(logits, dim=1) @ targets)
        jitter = torch.randn(targets.shape, generator=generator, dtype=torch.float64)
        first = torch.cat([equations.start(0.3 * jitter).flatten(), logits.flatten()])
        ended = LevenbergMarquardt(dense_below=1000, steps=100).minimize(residual, first, Limits(products=_PRODUCTS))
        if ended.value < least:
            best, least = ended.point, ended.value
        if least < _SETTLED:
            break
    mixture, shares = parts(best)
    equations.problem = replace(problem, targets=shares @ targets)
    features, misfit = mixture @ equations.basis, equations.misfit(mixture) / equations.count
    residuals = equations.problem.residuals(features)
    covariance = equations.covariance(mixture)
    certified = misfit < equations.certified
    return Shares(Separation(features, residuals, misfit, covariance, _STARTS, certified), labels, shares.detach())
