"""Which examples MixUp mixed, and in which shares, from the gradient of a softmax head.

The mixed batch has soft targets `lam Y + (1 - lam) Y_pi`. With N x N unknowns for the features and one for `lam`, the
head's equations (see `closed_form.separation`) are overdetermined, so that they hold to rounding for the right partners
alone. They see partners only by their labels.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor

from gradleak.attacks.closed_form.separation import Separation, separate
from gradleak.attacks.closed_form.separation_equations import HeadProblem, SeparationEquations
from gradleak.seeds import stage_generator

# Where searches for the larger share begin.
_SHARES = (0.95, 0.8, 0.65, 0.53)
_JITTER = 0.3
_STEPS = 150
# Shares that a search may pass through: a wall at 1 would hold what has to turn.
_WIDEST = (0.3, 1.2)
# Gain of a step below which a search has ended.
_SMALL = 1e-6
# Mean squared misfit, in units of rounding, that needs no other start.
_SETTLED = 0.05

Partners = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MixedHead:
    """What the head's equations say about a mixed batch.

    Attributes:
        separation: features of every mixed example.
        labels: of the private examples in the order of the mixed ones, `[N]`: example n is the larger part of
            mixture n.
        partners: of every mixed example, one choice among those with the same labels.
        share: of the larger part, at least 1/2; 1 where nothing but examples of one label is mixed.
    """

    separation: Separation
    labels: Tensor
    partners: Partners
    share: float

    def targets(self, classes: Tensor) -> Tensor:
        """The mixed targets `[N, C]`, of the targets of every class `[C, C]`."""
        return mixed_targets(classes[self.labels], self.partners, self.share)


def mixed_targets(targets: Tensor, partners: Partners, share: float) -> Tensor:
    """`share` times each row and the rest of its partner's, `[N, C]`."""
    return share * targets + (1 - share) * targets[list(partners)]


def seen(labels: tuple[int, ...], partners: Partners) -> tuple[tuple[int, int], ...]:
    """What the head sees of partners: the pairs of labels, in rising order."""
    return tuple(sorted((labels[own], labels[other]) for own, other in enumerate(partners)))


def different_partners(labels: tuple[int, ...]) -> Iterator[Partners]:
    """Choices of partners that the head tells apart, if the larger share is one's own; nothing mixed comes first."""
    known: set[tuple[tuple[int, int], ...]] = set()
    for partners in permutations(range(len(labels))):
        pairs = seen(labels, partners)
        if pairs not in known:
            known.add(pairs)
            yield partners


def separate_mixed(
    problem: HeadProblem, labels: Tensor, classes: Tensor, *, seed: int = 0, deadline: float = math.inf
) -> MixedHead:
    """Try all partners that the head tells apart.

    Args:
        problem: the equations; their targets are not used.
        labels: of the private examples, in any order, `[N]`.
        classes: what the loss pulls each class towards, `[C, C]`.
        seed: of the starts' jitter.
        deadline: reading of `time.perf_counter` after which the best so far is returned.

    Returns:
        The one with the smallest misfit; wrong partners may be certified where shares are close to 1 or 1/2.
    """
    targets = classes[labels]
    best: MixedHead | None = None
    for partners in different_partners(tuple(labels.tolist())):
        if best is not None and time.perf_counter() >= deadline:
            break
        if torch.equal(targets, targets[list(partners)]):
            share, found = 1.0, separate(replace(problem, targets=targets), seed=seed, deadline=deadline)
        else:
            share, found = _with_share(problem, targets, partners, seed, deadline)
        if best is None or found.misfit < best.separation.misfit:
            best = MixedHead(found, labels, partners, share)
    assert best is not None
    return best


def _with_share(
    problem: HeadProblem, targets: Tensor, partners: Partners, seed: int, deadline: float
) -> tuple[float, Separation]:
    """Solve for features and share together, from several shares."""
    generator = stage_generator(seed, "mixed_head")
    best: tuple[float, Tensor, SeparationEquations, float] | None = None
    for number, first in enumerate(_SHARES):
        if best is not None and time.perf_counter() >= deadline:
            break
        equations = SeparationEquations(replace(problem, targets=mixed_targets(targets, partners, first)))
        jitter = torch.randn(targets.shape, generator=generator, dtype=torch.float64)
        mixture, share = _solve(
            equations, targets, partners, equations.start(jitter * (_JITTER if number else 0)), first
        )
        misfit = equations.misfit(mixture) / equations.count
        if best is None or misfit < best[3]:
            best = share, mixture, equations, misfit
        if best[3] < _SETTLED:
            break
    assert best is not None
    share, mixture, equations, misfit = best
    features = mixture @ equations.basis
    residuals = equations.problem.residuals(features)
    certified = misfit < equations.certified
    separation = Separation(features, residuals, misfit, equations.covariance(mixture), len(_SHARES), certified)
    return share, separation


def _solve(
    equations: SeparationEquations, targets: Tensor, partners: Partners, mixture: Tensor, share: float
) -> tuple[Tensor, float]:
    """Levenberg-Marquardt in the mixture K and the share; leaves the equations with the targets of the share."""
    change = targets - targets[list(partners)]
    spread = equations.prior.sqrt().repeat(len(targets))
    damping, cost = 1e-2, math.inf
    point = (mixture, share)
    system: tuple[Tensor, Tensor] | None = None
    for _ in range(_STEPS):
        if system is None:
            system = _linearized(equations, change, spread, targets, partners, *point)
            cost = float(system[0].square().sum())
        misfits, jacobian = system
        normal = jacobian.T @ jacobian
        diagonal = normal.diagonal()
        diagonal.add_(damping * (diagonal + 1e-14 * diagonal.max()))
        factor, failed = torch.linalg.cholesky_ex(normal)
        if int(failed):
            break
        step = torch.cholesky_solve((jacobian.T @ misfits)[:, None], factor)[:, 0]
        trial = point[0] - step[:-1].view(mixture.shape), min(_WIDEST[1], max(_WIDEST[0], point[1] - float(step[-1])))
        found = _linearized(equations, change, spread, targets, partners, *trial)
        trial_cost = float(found[0].square().sum())
        if not trial_cost < cost:
            damping *= 4
            if damping > 1e8:
                break
            continue
        gain, damping = (cost - trial_cost) / cost, max(damping / 5, 1e-14)
        point, cost, system = trial, trial_cost, found
        if gain < _SMALL:
            break
    share = min(1.0, max(0.5, point[1]))
    equations.problem = replace(equations.problem, targets=mixed_targets(targets, partners, share))
    return point[0], share


def _linearized(
    equations: SeparationEquations,
    change: Tensor,
    spread: Tensor,
    targets: Tensor,
    partners: Partners,
    mixture: Tensor,
    share: float,
) -> tuple[Tensor, Tensor]:
    """Misfits, those from typical included, and their derivative by K and share."""
    equations.problem = replace(equations.problem, targets=mixed_targets(targets, partners, share))
    probabilities, weight, bias = equations.evaluate(mixture)
    away = (mixture - equations.center).reshape(-1) * spread
    moves = -(equations.problem.scales[:, None] * change)
    column = torch.cat(
        [
            (moves.T @ mixture).reshape(-1) / equations.sigma_weight,
            moves.sum(dim=0) / equations.sigma_bias,
            torch.zeros_like(away),
        ]
    )
    rows = torch.cat([equations.jacobian(mixture, probabilities), torch.diag(spread)])
    return torch.cat([weight.reshape(-1), bias, away]), torch.cat([rows, column[:, None]], dim=1)
