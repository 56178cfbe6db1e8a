"""One start of the separation of features: labels searched along with them where they are not given."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.local.features import FeatureProblem
from gradleak.attacks.local.matching import is_scaleless, matching_energy, search
from gradleak.attacks.objectives import WeightedSquaredDistance, layer_cosine_distance
from gradleak.attacks.protocol import Progress
from gradleak.attacks.purse import Purse
from gradleak.optim import Minimum

_EVALUATIONS = 3000
_HARD_EVALUATIONS = 1000
# Where the search of labels starts: so sure of the recovered counts, and the rest for all classes alike.
_TRUST = 0.7
_EXPLAINED = 1e-9


@dataclass(frozen=True, eq=False)
class Separated:
    """Where one start ended.

    Attributes:
        latent: whitened features `[N, N]`.
        targets: one-hot, or as given, `[N, C]`.
        value: the objective there.
        searches: each with the evaluations used in all when it ended.
    """

    latent: Tensor
    targets: Tensor
    value: float
    searches: tuple[tuple[Minimum, int], ...]


def separated(
    problem: FeatureProblem,
    latent: Tensor,
    targets: Tensor,
    searched: bool,
    purse: Purse,
    progress: Progress | None,
) -> Separated | None:
    """Search the features of all examples, with soft targets first where they are not given.

    Args:
        problem: what is separated.
        latent: where to start, `[N, N]`.
        targets: given, or the first guess `[N, C]`.
        searched: whether the targets are searched too, and then rounded to classes.
        purse: the budget.
        progress: called while it runs.

    Returns:
        The end, or None if the budget allowed nothing.
    """
    count, classes = targets.shape
    objective = layer_cosine_distance if is_scaleless(problem.observation) else WeightedSquaredDistance()
    distance = matching_energy(problem.observation, objective)
    searches: list[tuple[Minimum, int]] = []
    if searched:
        logits = (_TRUST * targets + (1 - _TRUST) / classes).log()

        def soft(point: Tensor) -> Tensor:
            rows = point.view(count, -1)
            return distance(problem.coordinates(rows[:, :count]), torch.softmax(rows[:, count:], dim=1))

        start = torch.cat([latent, logits], dim=1).flatten()
        ended = search(soft, start, _EVALUATIONS, purse, progress, _EXPLAINED)
        if ended is None:
            return None
        searches.append((ended, purse.used))
        rows = ended.points[0].view(count, -1)
        latent = rows[:, :count]
        targets = torch.nn.functional.one_hot(rows[:, count:].argmax(dim=1), classes).to(targets)

    def hard(point: Tensor) -> Tensor:
        return distance(problem.coordinates(point.view(count, count)), targets)

    ended = search(hard, latent.flatten(), _HARD_EVALUATIONS if searched else _EVALUATIONS, purse, progress, _EXPLAINED)
    if ended is None:
        return None
    searches.append((ended, purse.used))
    return Separated(ended.points[0].view(count, count), targets, float(ended.values[0]), tuple(searches))
