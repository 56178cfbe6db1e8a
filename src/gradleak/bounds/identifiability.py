"""`identifiability`: whether an update determines its batch where there is no noise, and if not, what stays free."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradleak.bounds.cramer_rao import LARGEST_STORED, exact_cost, measure_exactly
from gradleak.bounds.leakage_bound import EXACT_UNKNOWNS
from gradleak.bounds.noise import noise_stage
from gradleak.bounds.unknowns import Unknowns, unknowns
from gradleak.captures import admitted
from gradleak.clients import Client, Gradient
from gradleak.defenses import AddsNoise, Defense, Quantize
from gradleak.errors import refuse
from gradleak.seeds import stage_generator
from gradleak.tasks import Task

Status = Literal["determined", "free", "nothing", "too_large"]
"""`"determined"`: full rank; `"free"`: some directions leave no trace; `"nothing"`: none leaves any; `"too_large"`: the
spectrum was not computed."""

_FORMATS: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_LOCAL = (
    "This is the rank of the derivative at this very batch: where it is full, no other batch nearby gives the same "
    "update, but one far away may (examples in another order always do). At kinks (ReLU, pooling) it holds on the side "
    "on which the batch lies, and what a dead unit hides counts as free."
)


@dataclass(frozen=True, eq=False)
class Identifiability:
    """Whether an update determines its batch, by the spectrum of its Jacobian.

    Attributes:
        status: see `Status`.
        sentences: the same in words, what it means and for whom it holds; the first is the answer.
        rank: singular values that are not zero; 0 where too large.
        free: directions without a trace, at least.
        unknowns: input values d.
        equations: entries sent P.
        singular_values: descending, in update units per input unit, `[d]`; empty where too large.
        condition: the largest over the smallest that is not zero; NaN where there is none.
        precision: relative error of the update, independent on its entries, up to which the identifiable directions
            have a root mean square error of at most one step of 8 bits, 1/255 of the range of inputs; NaN likewise.
        directions: an orthonormal basis of the free ones, `[free, N, *shape]`, images from smooth to rough; none where
            too large.
        free_share: of each input value, from 0 (determined) to 1 (free), of the shape of the inputs.
        seconds: time taken.
    """

    status: Status
    sentences: tuple[str, ...]
    rank: int
    free: int
    unknowns: int
    equations: int
    singular_values: Tensor
    condition: float
    precision: float
    directions: Tensor
    free_share: Tensor
    seconds: float


def identifiability(
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    *,
    client: Client | None = None,
    defenses: Sequence[Defense] = (),
    targets_unknown: bool = False,
    seed: int = 0,
    max_seconds: float = 600.0,
    exact_unknowns: int = EXACT_UNKNOWNS,
) -> Identifiability:
    """Whether what a client sends determines its inputs, when noise is left out.

    Everything is computed in float64, whatever the model's type, since this is about the map and not about rounding.

    Args:
        task: the public task.
        inputs: private inputs `[N, ...]` in the input space's own units.
        targets: class indices `[N]`, or probabilities `[N, C]`.
        client: how the update is made; `clients.Gradient()` if not given.
        defenses: applied in order; masks and pruning as they fall for this seed.
        targets_unknown: whether the targets' probabilities are to be found along with the inputs.
        seed: of private choices, as for `capture`.
        max_seconds: beyond this estimate nothing is computed.
        exact_unknowns: likewise beyond so many unknowns.

    Returns:
        The answer, with the free directions.

    Raises:
        BadInput: when batch, client or defenses do not fit, or the model cannot be differentiated; every problem is
            listed.
    """
    begin = time.perf_counter()
    client = client if client is not None else Gradient()
    changed, problems = admitted(task, inputs, targets, client, defenses)
    if tuple(task.space.variable_shape) != tuple(task.space.shape):
        problems.append(
            f"inputs: expected real values that the model receives, got a space whose inputs {list(task.space.shape)} "
            f"enter as {list(task.space.variable_shape)}; integers such as tokens have no derivative"
        )
    refuse(problems)
    stage = noise_stage(client, defenses, len(inputs))
    problem = unknowns(changed, inputs, targets, client, defenses, stage, targets_unknown=targets_unknown, seed=seed)
    equations, size = problem.by_inputs.shape
    cost = exact_cost(problem)
    small = size <= exact_unknowns or (min(size, equations) <= exact_unknowns and size * equations <= LARGEST_STORED)
    said = [_LOCAL, *stage.assumptions]
    if stage.inverse_information or any(isinstance(defense, AddsNoise) for defense in defenses):
        said.append("Noise is left out here; leakage_bound says what it covers.")
    if stage.rounds or any(isinstance(defense, Quantize) for defense in defenses):
        said.append("Rounding is left out here: the rank is that of the update before it.")
    if not small or cost > max_seconds:
        return _too_large(inputs, equations, cost, said, time.perf_counter() - begin)
    low, high = task.space.bounds if task.space.bounds is not None else (0.0, 1.0)
    return _answer(problem, inputs, (high - low) / 255, said, seed, begin)


def pictures(directions: Tensor) -> Tensor:
    """Directions as images in [0, 1] for display: zero is gray, and the largest value of each is black or white.

    Args:
        directions: `[k, ...]`, of any scale.

    Returns:
        Of the same shape.
    """
    largest = directions.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(directions.dtype).tiny)
    return 0.5 + 0.5 * directions / largest.view(-1, *[1] * (directions.dim() - 1))


def _answer(
    problem: Unknowns, inputs: Tensor, step: float, said: Sequence[str], seed: int, begin: float
) -> Identifiability:
    """Of a spectrum that can be computed."""
    equations, size = problem.by_inputs.shape
    (found,) = measure_exactly(problem, [problem.mask], [1.0], step, stage_generator(seed, "bound"))
    rank = found.rank
    values = found.singular_values[:rank]
    # The other columns of a complete basis span what the right singular vectors leave.
    basis = torch.linalg.qr(found.information.vectors, mode="complete").Q[:, rank:]
    directions = _smooth_first(basis.T.reshape(-1, *inputs.shape))
    condition = precision = math.nan
    if rank:
        condition = float(values[0] / values[-1])
        entries = torch.cat([tensor.flatten() for tensor in problem.sent.values()])
        typical = float((problem.mask * entries).square().mean().sqrt())
        precision = step / (float(values.square().reciprocal().mean().sqrt()) * typical) if typical else math.nan
    status: Status = "nothing" if not rank else "free" if rank < size else "determined"
    return Identifiability(
        status=status,
        sentences=(*_words(status, rank, size, equations, condition, precision), *said),
        rank=rank,
        free=size - rank,
        unknowns=size,
        equations=equations,
        singular_values=found.singular_values.cpu(),
        condition=condition,
        precision=precision,
        directions=directions.cpu(),
        free_share=basis.square().sum(dim=1).clamp(max=1).view(inputs.shape).cpu(),
        seconds=time.perf_counter() - begin,
    )


def _smooth_first(directions: Tensor) -> Tensor:
    """Another basis of the same space: where inputs are images, by how much neighboring pixels differ."""
    if directions.dim() < 5 or not len(directions):
        return directions
    steps = torch.cat([directions.diff(dim=-1).flatten(1), directions.diff(dim=-2).flatten(1)], dim=1)
    _, rotation = torch.linalg.eigh(steps @ steps.T)
    return torch.einsum("kj,k...->j...", rotation, directions)


def _words(status: Status, rank: int, size: int, equations: int, condition: float, precision: float) -> tuple[str, ...]:
    """The answer, and what it takes to use it."""
    counts = f"{equations:,} equations for {size:,} unknowns"
    if status == "nothing":
        return (f"This update says nothing about the input: all {size:,} directions stay free.",)
    answer = f"This update determines the input, locally: rank {rank:,} of {size:,}, {counts}."
    if status == "free":
        answer = f"At least {size - rank:,} directions stay free: rank {rank:,} of {size:,}, {counts}."
    enough = [name for name, dtype in _FORMATS.items() if torch.finfo(dtype).eps / 12**0.5 <= precision]
    format = f"{enough[0]} is exact enough" if enough else "not even float64 is exact enough"
    which = "pixels" if status == "determined" else "the other directions"
    return (
        answer,
        f"For 8-bit precision of {which} the update must be exact to a relative {precision:.1e} (condition "
        f"{condition:.1e}): {format}.",
    )


def _too_large(inputs: Tensor, equations: int, cost: float, said: Sequence[str], seconds: float) -> Identifiability:
    """What is certain without a spectrum: no more directions are determined than entries are sent."""
    size = inputs.numel()
    free = max(0, size - equations)
    known = f": at least {free:,} directions stay free, since only {equations:,} entries are sent" if free else ""
    answer = (
        f"Too large for the whole spectrum ({size:,} unknowns, about {cost:,.0f} s){known}. Give fewer examples, or "
        "raise exact_unknowns and max_seconds; leakage_bound estimates the leading part."
    )
    return Identifiability(
        status="too_large",
        sentences=(answer, *said),
        rank=0,
        free=free,
        unknowns=size,
        equations=equations,
        singular_values=torch.zeros(0, dtype=torch.float64),
        condition=math.nan,
        precision=math.nan,
        directions=torch.zeros(0, *inputs.shape, dtype=torch.float64),
        free_share=torch.full(inputs.shape, math.nan, dtype=torch.float64),
        seconds=seconds,
    )
