"""`leakage_bound`: how well any attacker of a stated class can do at best, beside what an attack did."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradleak.bounds.bayesian import BayesianBound, van_trees, wording
from gradleak.bounds.chosen_prior import PriorName, chosen_prior, prior_problems
from gradleak.bounds.cramer_rao import (
    LARGEST_STORED,
    Measured,
    Method,
    exact_cost,
    measure_by_products,
    measure_exactly,
)
from gradleak.bounds.gaussian_prior import Prior
from gradleak.bounds.information import FisherInformation
from gradleak.bounds.noise import NoiseStage, noise_stage
from gradleak.bounds.unknowns import Unknowns, unknowns
from gradleak.bounds.wording import assumptions
from gradleak.captures import admitted
from gradleak.clients import Client, Gradient
from gradleak.defenses import Defense
from gradleak.errors import refuse
from gradleak.seeds import stage_generator
from gradleak.tasks import Task
from gradleak.threat import ThreatModel

Labels = Literal["known", "classes", "probabilities"]
"""What of the targets is unknown: nothing; which class each is, that is nothing that can be differentiated by; or rows
of probabilities, which are estimated along with the inputs."""

Status = Literal["bounded", "unbounded", "free_directions", "nothing", "partial"]
"""`"bounded"`: noise leaves a floor; `"unbounded"`: no noise and full rank, so that only rounding limits an attacker;
`"free_directions"`: no unbiased estimate of the whole input exists; `"nothing"`: the update does not depend on the
inputs locally; `"partial"`: too large for the whole spectrum, so that the floor is a number below the true one."""

EXACT_UNKNOWNS = 4096
"""Unknown input values up to which the whole spectrum is computed."""


@dataclass(frozen=True, eq=False)
class LeakageBound:
    """What no unbiased attacker can do better than at one private batch, and no attacker with a Gaussian prior.

    Attributes:
        psnr_ceiling: highest PSNR in dB of the mean squared error, over all values of the batch, of an estimate that is
            not clipped; `inf` without noise, `-inf` if directions are free.
        mse_floor: lowest mean squared error, in the square of the input space's unit.
        precision_ceiling: the same in dB where the rounding of what is sent counts as noise; `psnr_ceiling` if there is
            other noise.
        singular_values: of the Jacobian of what is sent by the inputs, in update units per input unit, descending;
            unknown probabilities are projected out. The leading ones only if `status` is `"partial"`.
        rank: how many of them are not zero.
        free_directions: unknowns less rank: directions in which the batch can move without a trace.
        identifiable_mse_floor: mean squared error over the other directions alone.
        pixel_std: least standard deviation of an estimate of each input value, of the shape of the inputs; by rounding
            where there is no noise, `inf` where free directions touch a value.
        unknowns: input values d.
        equations: entries sent P.
        fisher_trace: `tr(I) / d` (dFIL), in one over the square of the input unit; `inf` without noise.
        recoverable: share of the d eigen-directions along which an estimate can have a standard deviation of at most
            one step of 8 bits, 1/255 of the range of the inputs; by rounding where there is no noise.
        assumptions: for whom and under what all this holds, a sentence each.
        method: `"svd"`, `"gram"` or `"lanczos"`.
        error: largest error of a singular value, as a share of the largest.
        seconds: time taken.
        status: see `Status`.
        prior_psnr_ceiling: highest PSNR in dB of any estimate, biased or not, if inputs are drawn from the prior; above
            `precision_ceiling`; by rounding where there is no noise; NaN without a prior.
        prior_mse_floor: the lowest mean squared error that belongs to it, never above the prior's own variance.
        prior_pixel_std: standard deviation that the update leaves of each input value under that prior, of the shape of
            the inputs; None without a prior or if `status` is `"partial"`.
        prior: its name; None without one.
        prior_spread: standard deviation of the squared error of the best estimate under that prior, as a share of its
            mean; NaN without a prior or if `status` is `"partial"`.
        information: about the inputs, by the noise or else by rounding; None unless asked for, since it is large.
    """

    psnr_ceiling: float
    mse_floor: float
    precision_ceiling: float
    singular_values: Tensor
    rank: int
    free_directions: int
    identifiable_mse_floor: float
    pixel_std: Tensor
    unknowns: int
    equations: int
    fisher_trace: float
    recoverable: float
    assumptions: tuple[str, ...]
    method: Method
    error: float
    seconds: float
    status: Status
    prior_psnr_ceiling: float = math.nan
    prior_mse_floor: float = math.nan
    prior_pixel_std: Tensor | None = None
    prior: str | None = None
    prior_spread: float = math.nan
    information: FisherInformation | None = None


def leakage_bound(
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    *,
    client: Client | None = None,
    defenses: Sequence[Defense] = (),
    threat: ThreatModel | None = None,
    labels: Labels | None = None,
    prior: Prior | PriorName | None = "smoothness",
    seed: int = 0,
    max_seconds: float = 600.0,
    exact_unknowns: int = EXACT_UNKNOWNS,
    keep_information: bool = False,
) -> LeakageBound:
    """The Cramer-Rao bound of a private batch under a client and defenses (Hannun, Guo, van der Maaten, UAI 2021).

    Observing `h = g(x) + noise` of Fisher information 1/q per entry, an unbiased estimate of x has a covariance of at
    least `I^-1` with `I = J^T J / q`, J the Jacobian of g. Everything is computed in float64.

    Args:
        task: the public task.
        inputs: private inputs `[N, ...]` in the input space's own units (images in [0, 1]).
        targets: class indices `[N]`, or probabilities `[N, C]`.
        client: how the update is made; `clients.Gradient()` if not given.
        defenses: applied to the update in order.
        threat: whose attacker this is about; only whether labels are known matters, the rest is granted.
        labels: in place of the threat's word: `"known"`, `"classes"`, the default for withheld class indices, or
            `"probabilities"`, the default for withheld probabilities, also possible for indices.
        prior: of one input, for the second ceiling, that of attackers who know what inputs look like (`van_trees`):
            `"smoothness"` is `smoothness_prior` for images of 1 or 3 channels and none for others; `"photographs"` is
            the sharper `photograph_prior` of the batch, that of the attack `auto`, for up to 4096 values.
        seed: of private choices of client and defenses, as for `capture`.
        max_seconds: beyond this estimate, the leading part of the spectrum is taken in place of the whole.
        exact_unknowns: likewise beyond so many unknowns.
        keep_information: keep the eigenvectors, of up to d^2 numbers.

    Returns:
        The bound, with its assumptions in words.

    Raises:
        BadInput: when batch, client or defenses do not fit, or the model cannot be differentiated; every problem is
            listed.
    """
    begin = time.perf_counter()
    client = client if client is not None else Gradient()
    known = (threat if threat is not None else ThreatModel()).labels_known
    changed, problems = admitted(task, inputs, targets, client, defenses)
    problems += _problems(task, labels, max_seconds, exact_unknowns)
    problems += prior_problems(task.space, inputs, prior)
    refuse(problems)
    chosen: Labels = labels if labels is not None else _labels(known, targets)
    stage = noise_stage(client, defenses, len(inputs))
    problem = unknowns(
        changed, inputs, targets, client, defenses, stage, targets_unknown=chosen == "probabilities", seed=seed
    )
    low, high = task.space.bounds if task.space.bounds is not None else (0.0, 1.0)
    scales, stds = _laws(problem, stage.inverse_information)
    equations, size = problem.by_inputs.shape
    cost = exact_cost(problem)
    small = size <= exact_unknowns or (min(size, equations) <= exact_unknowns and size * equations <= LARGEST_STORED)
    measure = measure_exactly if small and cost <= max_seconds else measure_by_products
    measured = measure(problem, scales, stds, (high - low) / 255, stage_generator(seed, "bound"))
    partial = measure is measure_by_products
    said = assumptions(changed, client, defenses, stage, chosen, partial=partial, cost=cost, peak=high - low)
    bayesian, known_prior = None, chosen_prior(task.space, inputs, prior)
    if known_prior is not None:
        bayesian = van_trees(measured[-1].information, known_prior, trace=measured[-1].mean_information)
        said += wording(known_prior, noisy=stage.inverse_information > 0, peak=high - low)
    return _bound(
        measured,
        stage,
        inputs,
        equations=equations,
        peak=high - low,
        said=said,
        bayesian=bayesian,
        keep=keep_information,
        seconds=time.perf_counter() - begin,
    )


def _laws(problem: Unknowns, inverse_information: float) -> tuple[list[Tensor], list[float]]:
    """Scales of the rows, and the standard deviation of a scale of 1: of noise, or of J itself and of rounding."""
    if inverse_information > 0:
        variance = inverse_information + problem.variance
        if problem.buffers:
            variance = torch.cat([variance[: -problem.buffers], problem.precision[-problem.buffers :]])
        return [problem.mask * (inverse_information / variance).sqrt()], [math.sqrt(inverse_information)]
    reference = float(problem.precision.mean())
    return [problem.mask, problem.mask * (reference / problem.precision).sqrt()], [1.0, math.sqrt(reference)]


def _bound(
    measured: list[Measured],
    stage: NoiseStage,
    inputs: Tensor,
    *,
    equations: int,
    peak: float,
    said: tuple[str, ...],
    bayesian: BayesianBound | None,
    keep: bool,
    seconds: float,
) -> LeakageBound:
    """The result, of the law of the noise, or of J itself and the law of rounding."""
    first, last = measured[0], measured[-1]
    noisy, partial = stage.inverse_information > 0, first.method == "lanczos"
    free = max(0, inputs.numel() - (first.rank if not partial else min(equations, inputs.numel())))
    status: Status = "bounded" if noisy else "unbounded"
    if first.rank == 0:
        status, free = "nothing", inputs.numel()
    elif partial:
        status = "partial"
    elif free:
        status = "free_directions"
    floor = math.inf if free else first.mse_floor if noisy else 0.0
    rounded = math.inf if free else last.mse_floor
    return LeakageBound(
        psnr_ceiling=_psnr(floor, peak),
        mse_floor=floor,
        precision_ceiling=_psnr(rounded, peak),
        singular_values=first.singular_values.cpu(),
        rank=first.rank,
        free_directions=free,
        identifiable_mse_floor=first.information.identifiable_mse_floor() if noisy else 0.0,
        pixel_std=last.std.view(inputs.shape).cpu(),
        unknowns=inputs.numel(),
        equations=equations,
        fisher_trace=first.mean_information.value if noisy else math.inf,
        recoverable=last.share,
        assumptions=said,
        method=first.method,
        error=first.error,
        seconds=seconds,
        status=status,
        prior_psnr_ceiling=math.nan if bayesian is None else _psnr(bayesian.mse_floor, peak),
        prior_mse_floor=math.nan if bayesian is None else bayesian.mse_floor,
        prior_pixel_std=None if bayesian is None or bayesian.std is None else bayesian.std.view(inputs.shape).cpu(),
        prior=None if bayesian is None else bayesian.prior,
        prior_spread=math.nan if bayesian is None else bayesian.spread,
        information=last.information if keep else None,
    )


def _psnr(mse: float, peak: float) -> float:
    if mse == 0:
        return math.inf
    return -math.inf if math.isinf(mse) else 10 * math.log10(peak**2 / mse)


def _labels(known: bool, targets: Tensor) -> Labels:
    if known:
        return "known"
    return "classes" if targets.dim() == 1 else "probabilities"


def _problems(task: Task, labels: object, max_seconds: float, exact_unknowns: int) -> list[str]:
    """What is wrong with the bound's own settings, and inputs by which nothing can be differentiated."""
    found: list[str] = []
    if tuple(task.space.variable_shape) != tuple(task.space.shape):
        found.append(
            f"inputs: expected real values that the model receives, got a space whose inputs {list(task.space.shape)} "
            f"enter as {list(task.space.variable_shape)}; integers such as tokens have no derivative, so there is no "
            "Cramer-Rao bound"
        )
    if labels not in {None, "known", "classes", "probabilities"}:
        found.append(f"labels: expected 'known', 'classes' or 'probabilities', got {labels!r}; choose one")
    if not max_seconds > 0:
        found.append(f"max_seconds: expected a number above 0, got {max_seconds}; 600 is the default")
    if exact_unknowns < 0:
        found.append(f"exact_unknowns: expected at least 0, got {exact_unknowns}; 0 never takes the exact route")
    return found
