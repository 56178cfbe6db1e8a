"""`screen`: which of thousands of examples leak first, from a few products with each one's Jacobian.

What an attacker can get of an example follows from the spectrum of the Jacobian J of its update. The whole spectrum
takes hundreds of products; a few tell how examples compare, and several such figures are known:

- the trace of `J^T J`, which is the Fisher information loss of Hannun, Guo, van der Maaten (UAI 2021) but for units.
  With noise of std s it bounds the error of unbiased estimates, `MSE >= d s^2 / tr(J^T J)`, which may be below the
  Cramer-Rao floor by the square of the condition number: a few large singular values make the trace, and the small ones
  make the floor;
- the largest singular value, by which I2F bounds how far noise moves a reconstruction (Zhang et al., NeurIPS 2023);
- the extreme eigenvalues of `J^T J` at the truth, by which LAVP ranks examples (Hong et al., AAAI 2024);
- the norm of the gradient, the usual guess, which is not a property of J at all.

`screen` takes a few steps of Golub-Kahan bidiagonalization from random signs. One such run gives the trace (its first
step), the largest singular value, and a Gauss rule for the floor `s^2 tr((J^T J)^-1) / d` itself, which every step
raises from the trace form towards the truth, and never beyond but for the draw of signs. So the score ranks by a
quantity of the FIL kind that is much nearer to the floor for the same products. The smallest singular value is not
estimated: no few products can, and its inverse square is one of d terms of the floor.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.bounds.example_jacobians import ExampleJacobians, Recorded, Repeated, chunk_size, quick_route_holds
from gradleak.captures import admitted
from gradleak.clients import Client, Gradient
from gradleak.clients.settings import stateful_layers
from gradleak.errors import BadInput, refuse
from gradleak.linalg.golub_kahan import Bidiagonal, Rule, golub_kahan
from gradleak.seeds import stage_generator
from gradleak.tasks import Task

RECOGNIZABLE_DB = 20.0
"""PSNR in dB to which scores refer: from about here one recognizes a small image."""

Notify = Callable[[int, int], None]
"""`notify(examples done, examples in all)`."""


@dataclass(frozen=True, eq=False)
class Screening:
    """Figures of each of n examples, in the order given.

    Each is about an update of that example alone. Of the mean over a batch of B an example's own part is 1/B: with all
    other examples known, `score`, `largest` and `gradient_norm` are 1/B of these, and `trace` is 1/B^2.

    Attributes:
        score: the risk: noise std above which no unbiased estimate of the example can have a mean PSNR of 20 dB, in
            units of the update, `[n]`. The higher, the more noise an example needs. An upper limit of the noise that is
            enough, within its error; 0 for an update that does not depend on the example, NaN for one that is not
            finite.
        score_error: its standard error by the draw of signs, `[n]`.
        trace: of `J^T J`, `[n]`.
        trace_error: likewise its standard error.
        largest: singular value of J, from below, `[n]`.
        gradient_norm: of the update, for comparison, `[n]`.
        trace_score: what the score would be by the trace alone, `[n]`; above `score`, up to the draw of signs.
        bidiagonal: what the steps found, `[n, probes, steps]`.
        unknowns: input values d.
        equations: entries sent P.
        peak: range of the inputs, to which PSNR refers.
        seconds: time taken.
        assumptions: for whom and under what all this holds, a sentence each.
    """

    score: Tensor
    score_error: Tensor
    trace: Tensor
    trace_error: Tensor
    largest: Tensor
    gradient_norm: Tensor
    trace_score: Tensor
    bidiagonal: Bidiagonal
    unknowns: int
    equations: int
    peak: float
    seconds: float
    assumptions: tuple[str, ...]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.score)

    def riskiest_first(self) -> Tensor:
        """Positions by descending score, `[n]`; those without one come last."""
        return self.score.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)

    def mse_floor(self, noise_std: float, prior_std: float = math.inf) -> tuple[Tensor, Tensor]:
        """Limits of the floor of the mean squared error under Gaussian noise, each `[n]`, within the draw of signs.

        Args:
            noise_std: above 0, on every entry of the update.
            prior_std: of each input value on its own, where the attacker has a Gaussian prior: then van Trees' bound
                for that prior, with the information at this example for its mean. Infinite for unbiased estimates.

        Returns:
            A lower limit (Gauss rule), and an upper one (Gauss-Radau rule), which is infinite without a prior.
        """

        def error(values: Tensor) -> Tensor:
            return 1 / ((values / noise_std).square() + prior_std**-2)

        lower, upper = self.bidiagonal.gauss().mean(error), self.bidiagonal.radau().mean(error)
        return lower.mean(dim=1), upper.mean(dim=1)

    def psnr_ceiling(self, noise_std: float, prior_std: float = math.inf) -> Tensor:
        """The upper limit in dB of the mean PSNR that belongs to the lower one of `mse_floor`, `[n]`."""
        return 10 * (self.peak**2 / self.mse_floor(noise_std, prior_std)[0]).log10()


def screen(
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    *,
    client: Client | None = None,
    steps: int = 8,
    probes: int = 2,
    seed: int = 0,
    notify: Notify | None = None,
) -> Screening:
    """Figures of leakage for every example, an update of each alone.

    Args:
        task: the public task; a model in less than float32 is computed in float32.
        inputs: examples `[n, ...]` in the input space's own units.
        targets: class indices `[n]`, or probabilities `[n, C]`, which count as known.
        client: how an update is made, one gradient; `clients.Gradient()` if not given.
        steps: of bidiagonalization, products with J and with its transpose each; 1 gives the trace alone.
        probes: draws of signs for each example, at least 2, over which everything is averaged.
        seed: of the signs. An example's signs depend on its position only, not on how many there are.
        notify: called as examples are done.

    Returns:
        The figures.

    Raises:
        BadInput: when examples, client or settings do not fit, or the model cannot be differentiated; every problem is
            listed.
    """
    begin = time.perf_counter()
    client = client if client is not None else Gradient()
    refuse(_problems(task, inputs, targets, client, steps, probes))
    assert isinstance(client, Gradient)  # refused above
    computed, size = _in_single(task), chunk_size(task)
    made = _route(computed, client, inputs, targets, seed)
    found: list[tuple[Bidiagonal, Tensor]] = []
    equations = 0
    for first in range(0, len(inputs), size):
        chunk = slice(first, min(len(inputs), first + size))
        jacobians = made(computed, client, inputs[chunk], targets[chunk])
        equations = jacobians.updates.shape[1]
        bidiagonal = _bidiagonal(jacobians, inputs[0].numel(), first, steps, probes, seed)
        found.append((bidiagonal, jacobians.updates.double().norm(dim=1)))
        if notify is not None:
            notify(chunk.stop, len(inputs))
    bidiagonal = Bidiagonal(
        torch.cat([one.diagonal for one, _ in found]).cpu(), torch.cat([one.above for one, _ in found]).cpu()
    )
    low, high = task.space.bounds if task.space.bounds is not None else (0.0, 1.0)
    norms = torch.cat([norm for _, norm in found]).cpu()
    return _screening(bidiagonal, norms, inputs[0].numel(), equations, high - low, time.perf_counter() - begin)


def _screening(
    bidiagonal: Bidiagonal, norms: Tensor, unknowns: int, equations: int, peak: float, seconds: float
) -> Screening:
    rule, lost = bidiagonal.gauss(), ~norms.isfinite()
    squares = _mean(rule, torch.square)
    inverses = _mean(rule, lambda values: values.square().reciprocal())
    wanted = peak**2 * 10 ** (-RECOGNIZABLE_DB / 10)
    # With noise of std s the floor is s^2 times the mean of the inverses.
    score, trace = (wanted / inverses[0]).sqrt(), unknowns * squares[0]
    relative = torch.where(inverses[0].isfinite(), inverses[1] / (2 * inverses[0]), 0)

    def given(figures: Tensor) -> Tensor:
        return torch.where(lost, math.nan, figures)

    return Screening(
        score=given(score),
        score_error=given(score * relative),
        trace=given(trace),
        trace_error=given(unknowns * squares[1]),
        largest=given(rule.nodes.flatten(1).amax(dim=1)),
        gradient_norm=norms,
        trace_score=given((wanted * trace / unknowns).sqrt()),
        bidiagonal=bidiagonal,
        unknowns=unknowns,
        equations=equations,
        peak=peak,
        seconds=seconds,
        assumptions=_assumptions(peak),
    )


def _mean(rule: Rule, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean over the probes and its standard error, each `[n]`."""
    draws = rule.mean(function)
    return draws.mean(dim=1), draws.std(dim=1) / draws.shape[1] ** 0.5


def _bidiagonal(
    jacobians: ExampleJacobians, unknowns: int, first: int, steps: int, probes: int, seed: int
) -> Bidiagonal:
    """Every probe of a chunk that begins at position `first`; zeros for updates that are not finite."""
    count = len(jacobians.updates)
    signs = torch.empty(count, probes, unknowns)
    for row in range(count):
        generator = stage_generator(seed, f"screening/{first + row}")
        signs[row] = torch.randint(2, (probes, unknowns), generator=generator) * 2.0 - 1
    signs = signs.to(jacobians.updates)
    found = [golub_kahan(jacobians.times, jacobians.transposed, signs[:, probe], steps) for probe in range(probes)]
    return Bidiagonal(
        torch.stack([one.diagonal for one in found], dim=1).nan_to_num(0, 0, 0),
        torch.stack([one.above for one in found], dim=1).nan_to_num(0, 0, 0),
    )


def _route(task: Task, client: Gradient, inputs: Tensor, targets: Tensor, seed: int) -> type[Recorded] | type[Repeated]:
    """The quicker way of taking products, or the safe one where the other is not the same."""
    try:
        holds = quick_route_holds(task, client, inputs, targets, stage_generator(seed, "screening"))
    # The model is foreign code, and any exception of it means the same to the user.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            [
                f"model: expected one whose gradient can be differentiated example by example (torch.func.jvp, vjp and "
                f"vmap), got {reason}; replace the operation, `gradleak inspect` names it"
            ]
        ) from error
    return Recorded if holds else Repeated


def _in_single(task: Task) -> Task:
    """The task itself, or a copy in float32 where it computes in less."""
    if task.dtype in {torch.float32, torch.float64}:
        return task
    loss = copy.deepcopy(task.loss).float() if isinstance(task.loss, nn.Module) else task.loss
    return Task(copy.deepcopy(task.model).float(), task.space, task.num_classes, loss)


def _problems(task: Task, inputs: Tensor, targets: Tensor, client: Client, steps: int, probes: int) -> list[str]:
    """Everything that is wrong, one line each."""
    _, found = admitted(task, inputs, targets, client, ())
    if tuple(task.space.variable_shape) != tuple(task.space.shape):
        found.append(
            f"inputs: expected real values that the model receives, got a space whose inputs {list(task.space.shape)} "
            f"enter as {list(task.space.variable_shape)}; integers such as tokens have no derivative"
        )
    if steps < 1:
        found.append(f"steps: expected at least 1, got {steps}; 8 is the default")
    if probes < 2:
        found.append(f"probes: expected at least 2, which tell the error, got {probes}; 2 is the default")
    if not isinstance(client, Gradient):
        found.append(
            f"client: expected Gradient, got {type(client).__name__}; screen one gradient of each example, and look at "
            "single batches of other clients with leakage_bound"
        )
        return found
    layers = stateful_layers(task.model) if client.mode == "train" else []
    if layers:
        found.append(
            f"client.mode: expected 'eval', got 'train' with BatchNorm ({', '.join(layers[:3])}), under which an "
            "update of one example alone is not its part of a batch's; use 'eval', or leakage_bound for a whole batch"
        )
    if client.dropout == "random":
        found.append("client.dropout: expected 'off' or 'fixed_mask', got 'random'; masks count as known here")
    if client.autocast is not None:
        found.append(f"client.autocast: expected none, got {client.autocast!r}; leave it out, it changes little here")
    return found


def _assumptions(peak: float) -> tuple[str, ...]:
    return (
        "Each example is screened by an update of it alone; in the mean over a batch of B its own part is 1/B of that, "
        "and its score 1/B of this one, for an attacker who knows the other examples.",
        "The score is about unbiased estimates, not clipped and without prior knowledge, of inputs whose target is "
        "known; an attacker who knows what images look like can be closer.",
        "It is local: the derivative at the example itself, at kinks (ReLU, pooling) that of its own side.",
        "A few steps from random signs stop short of the smallest singular values: the score is an upper limit of the "
        "noise that is enough, good for ranking and not a certificate; leakage_bound gives the exact ceiling.",
        f"The peak of the PSNR is {peak:g}, the range of the inputs.",
    )
