"""Exact separation of a batch into what enters its last layer, by the softmax that links features and residuals.

The last layer, linear with bias under a softmax cross-entropy, has the gradient `dW = R^T A` and `db = R^T 1`, where
A `[N, D]` holds the features of the examples and `R = softmax(A W^T + b) - Y` (times 1/N) their residuals. The rows of
A lie in the row space of dW, so `A = K V` with the right singular vectors V and N x N unknowns K, for which
`R(K)^T K = dW V^T` and `R(K)^T 1 = db` are (C - 1)(N + 1) equations: enough for N <= C - 1.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.separation_equations import LARGEST_DENSE, HeadProblem, SeparationEquations
from gradleak.seeds import stage_generator

# Examples of one class trade features along a valley that starts enter at different places; up to this misfit,
# features typical or not included, it is followed to its end.
_SETTLED = 1.0
_JITTER = 0.3


@dataclass(frozen=True, eq=False)
class Separation:
    """What enters the last layer, example by example.

    Attributes:
        features: A `[N, D]`, float64, in the order of the targets that were given.
        residuals: derivative of the loss with respect to the logits, `[N, C]`.
        misfit: mean squared misfit of the equations in units of rounding; about 1 at the truth.
        covariance: estimated covariance between examples of the errors of a feature, `[N, N]`.
        starts: how many starts were tried.
        certified: whether the equations hold to rounding, which wrong targets or another batch size do not reach.
    """

    features: Tensor
    residuals: Tensor
    misfit: float
    covariance: Tensor
    starts: int
    certified: bool

    @property
    def std(self) -> Tensor:
        """Estimated standard deviation of a feature of each example, `[N]`."""
        return self.covariance.diagonal().clamp(min=0).sqrt()


def separate(
    problem: HeadProblem, *, starts: int = 8, seed: int = 0, patience: int | None = None, deadline: float = math.inf
) -> Separation:
    """Solve for the features of every example by Levenberg-Marquardt on N x N unknowns.

    The first start gives all examples the exact mean softmax `db + mean(Y)`; further ones jitter its logarithm, which
    also tells examples of one class apart.

    Args:
        problem: the equations.
        starts: how many starts at most; the first that is certified ends the search.
        seed: of the jitter.
        patience: give a start up when so many evaluations have not halved its misfit; None to go on.
        deadline: reading of `time.perf_counter` after which the present state is returned.

    Returns:
        The best separation found, certified or not.

    Raises:
        ValueError: if the batch has as many examples as the layer has features, or more.
    """
    count = len(problem.targets)
    if count > min(problem.weight_gradient.shape):
        raise ValueError(f"{count} examples do not fit into a gradient of shape {list(problem.weight_gradient.shape)}")
    equations = SeparationEquations(problem)
    generator = stage_generator(seed, "separation")
    repeated = bool((torch.pdist(problem.targets) == 0).any()) if count > 1 else False
    best, best_cost, tried = torch.zeros(count, count).double(), math.inf, 0
    for start in range(max(1, starts)):
        if tried and time.perf_counter() >= deadline:
            break
        tried += 1
        jitter = torch.randn(problem.targets.shape, generator=generator, dtype=torch.float64)
        first = equations.start(jitter * (_JITTER if start or repeated else 0.0))
        if repeated and count <= LARGEST_DENSE:
            mixture, cost = equations.follow(first, deadline)
        else:
            mixture, cost = equations.solve(first, patience, deadline)
        if cost < best_cost:
            best, best_cost = mixture, cost
        if best_cost / equations.count < (_SETTLED if repeated else equations.certified):
            break
    features, misfit = best @ equations.basis, equations.misfit(best) / equations.count
    return Separation(
        features,
        problem.residuals(features),
        misfit,
        equations.covariance(best),
        tried,
        certified=misfit < equations.certified,
    )
