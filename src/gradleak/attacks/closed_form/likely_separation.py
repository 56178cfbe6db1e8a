"""Separation where the labels are themselves only likely: the certificate decides between candidates."""

import math
import time
from collections.abc import Callable, Sequence

from torch import Tensor

from gradleak.attacks.closed_form.separation import Separation, separate
from gradleak.attacks.closed_form.separation_equations import HeadProblem

# Evaluations without halving the misfit after which a start is given up while other labels wait, one round after the
# other. With the right labels the misfit falls much faster; with wrong ones it soon stands still, far above rounding.
_PATIENCE = (3, 8)


def separate_likely(
    problem: Callable[[Tensor], HeadProblem],
    candidates: Sequence[Tensor],
    *,
    starts: int = 8,
    seed: int = 0,
    deadline: float = math.inf,
) -> tuple[Tensor, Separation]:
    """Separate with each candidate's labels in turn until one is certified; one short start for each.

    If none is, the first candidate gets all starts, without haste.

    Args:
        problem: the equations under labels `[N]`.
        candidates: label vectors `[N]`, likeliest first.
        starts: for the first candidate.
        seed: of the jitter of starts.
        deadline: reading of `time.perf_counter` after which the present state is returned.

    Returns:
        The labels of the best separation, and the separation.
    """
    first = separate(problem(candidates[0]), starts=1, seed=seed, patience=max(_PATIENCE), deadline=deadline)
    best_labels, best = candidates[0], first
    for patience in _PATIENCE:
        for labels in candidates[1:]:
            if best.certified or time.perf_counter() >= deadline:
                return best_labels, best
            found = separate(problem(labels), starts=1, seed=seed, patience=patience, deadline=deadline)
            if found.misfit < best.misfit:
                best_labels, best = labels, found
    if not best.certified:
        found = separate(problem(candidates[0]), starts=starts, seed=seed, deadline=deadline)
        if found.misfit < best.misfit:
            best_labels, best = candidates[0], found
    return best_labels, best
