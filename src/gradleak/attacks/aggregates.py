"""Whose is which example of an aggregate? What the mean of several clients' updates still says about that."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from gradleak.attacks.protocol import Progress
from gradleak.clients import Aggregate
from gradleak.threat import Observation
from gradleak.updates import parted

Parts = tuple[tuple[int, ...], ...]
"""For each client, the positions of its examples, ascending."""

# The best assignment must beat the second by this factor in the squared distance, and by more than rounding.
_CLEAR = 4.0


@dataclass(frozen=True)
class Membership:
    """Which examples belong to which client.

    Attributes:
        parts: for each client of the aggregate, in its order, the positions of its examples. Clients with equal
            settings may be exchanged; theirs are in the order of their first examples.
        determined: whether this assignment alone explains the update; otherwise it is one of several.
        mismatch: relative squared distance of the update under it.
        runner_up: that of the best other assignment that was tried; infinite if there is none.
        evaluations: assignments that were tried.
    """

    parts: Parts
    determined: bool
    mismatch: float
    runner_up: float
    evaluations: int


def membership(
    observation: Observation,
    variable: Tensor,
    target_probabilities: Tensor,
    *,
    max_evaluations: int = 2000,
    progress: Progress | None = None,
) -> Membership | str:
    """Assign examples, given or rebuilt, to the clients of an aggregate: the assignment that explains the update best.

    A mean of single gradients of clients alike is the gradient of all their examples, and leaves no trace of who had
    which: then nothing is determined. Different settings, local steps and batch statistics do leave one. Each client is
    taken to go through its examples in the order given here, which matters to those with several batches an epoch.

    Args:
        observation: what the attacker holds, of an aggregate whose settings are known; it is not changed.
        variable: the examples in any order, `[N, *variable_shape]`, for instance of a reconstruction.
        target_probabilities: `[N, C]`.
        max_evaluations: all assignments are tried if they are no more than these; otherwise pairs of examples are
            exchanged as long as that helps.
        progress: called while it runs.

    Returns:
        The assignment, or why there is none to find.
    """
    client, count = observation.client, len(variable)
    if not isinstance(client, Aggregate):
        return "the update is not known to be that of an aggregate"
    problems = client.batch_problems(count)
    if problems:
        return problems[0]
    judge = _Judge(observation, client, variable, target_probabilities)
    sizes = tuple(len(part) for part in client.parts(count))
    alike = _alike(client)
    if _how_many(sizes) <= max_evaluations:
        for parts in _assignments(tuple(range(count)), sizes):
            if _is_canonical(parts, sizes, alike):
                judge(parts)
                _tell(progress, judge)
    else:
        _exchange(judge, tuple(tuple(part) for part in client.parts(count)), alike, max_evaluations, progress)
    ranked = sorted(judge.seen.items(), key=lambda entry: entry[1])
    parts, best = ranked[0]
    runner_up = ranked[1][1] if len(ranked) > 1 else math.inf
    rounding = (1e3 * max(torch.finfo(tensor.dtype).eps for tensor in observation.update.tensors.values())) ** 2
    return Membership(parts, runner_up > max(_CLEAR * best, rounding), best, runner_up, len(ranked))


class _Judge:
    """How well an assignment explains the update; each client's update on each subset is computed once."""

    def __init__(self, observation: Observation, client: Aggregate, variable: Tensor, targets: Tensor) -> None:
        task, state = observation.task, observation.state
        self.variable = variable.detach().to(task.device, task.dtype)
        self.targets = targets.detach().to(task.device, task.dtype)
        self.steps = [member.bind(task, state) for member in client.members]
        self.first = [client.members.index(member) for member in client.members]
        self.shares = client.shares(len(variable))
        self.parameters = state.parameters
        self.observed = _flat(observation.update.tensors)
        self.updates: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        self.seen: dict[Parts, float] = {}

    def __call__(self, parts: Parts) -> float:
        if parts not in self.seen:
            total = sum(
                (
                    share * self._update(position, part)
                    for position, (share, part) in enumerate(zip(self.shares, parts, strict=True))
                ),
                torch.zeros_like(self.observed),
            )
            power = self.observed.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
            self.seen[parts] = float((total - self.observed).square().sum() / power)
        return self.seen[parts]

    def _update(self, position: int, part: tuple[int, ...]) -> Tensor:
        key = self.first[position], part
        if key not in self.updates:
            chosen = list(part)
            with torch.no_grad():
                sent = self.steps[position](self.variable[chosen], self.targets[chosen])
            self.updates[key] = _flat(parted(sent, self.parameters)[0])
        return self.updates[key]


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().flatten().cpu() for tensor in tensors.values()])


def _alike(client: Aggregate) -> Callable[[int, int], bool]:
    members = client.members
    return lambda one, other: members[one] == members[other]


def _how_many(sizes: Sequence[int]) -> float:
    ways = math.lgamma(sum(sizes) + 1) - sum(math.lgamma(size + 1) for size in sizes)
    return math.exp(min(ways, 700.0))


def _assignments(left: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[Parts]:
    """All ways to deal the positions out."""
    if len(sizes) == 1:
        yield (left,)
        return
    for part in combinations(left, sizes[0]):
        rest = tuple(position for position in left if position not in part)
        for others in _assignments(rest, sizes[1:]):
            yield (part, *others)


def _is_canonical(parts: Parts, sizes: tuple[int, ...], alike: Callable[[int, int], bool]) -> bool:
    """Whether of the assignments that differ by an exchange of equal clients this is the one to try."""
    return all(
        parts[one] < parts[other]
        for one, other in combinations(range(len(parts)), 2)
        if sizes[one] == sizes[other] and alike(one, other)
    )


def _exchange(
    judge: _Judge, parts: Parts, alike: Callable[[int, int], bool], most: int, progress: Progress | None
) -> None:
    """Exchange the pair of examples that helps most until none does."""
    best = judge(parts)
    while True:
        candidates = [
            _swapped(parts, one, first, other, second)
            for one, other in combinations(range(len(parts)), 2)
            if len(parts[one]) > 1 or len(parts[other]) > 1 or not alike(one, other)
            for first in parts[one]
            for second in parts[other]
        ]
        for candidate in candidates:
            if len(judge.seen) >= most:
                return
            judge(candidate)
            _tell(progress, judge)
        better = min(candidates, key=judge, default=parts)
        if judge(better) >= best:
            return
        parts, best = better, judge(better)


def _swapped(parts: Parts, one: int, first: int, other: int, second: int) -> Parts:
    changed = [list(part) for part in parts]
    changed[one] = sorted(second if position == first else position for position in parts[one])
    changed[other] = sorted(first if position == second else position for position in parts[other])
    return tuple(tuple(part) for part in changed)


def _tell(progress: Progress | None, judge: _Judge) -> None:
    if progress is not None:
        progress(len(judge.seen), min(judge.seen.values()))
