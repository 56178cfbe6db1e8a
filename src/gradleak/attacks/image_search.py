"""What searches for images behind networks with kinks begin with: whether they apply, targets, and first images."""

import torch
from torch import Tensor

from gradleak.attacks.labels import LabelCounts, recover_counts
from gradleak.seeds import stage_generator
from gradleak.tasks import ImageSpace
from gradleak.threat import Observation


def image_search_problem(observation: Observation) -> str | None:
    """Why a search for images with a total variation does not apply, if so."""
    if observation.update.is_empty:
        return "no evidence: every entry of the update is zero"
    if observation.client is None and observation.update.kind != "gradient":
        return "a weight delta cannot be simulated without its client"
    if observation.batch_size is None:
        return "the batch size is withheld, and this attack needs it"
    if not isinstance(observation.task.space, ImageSpace):
        return f"the total variation needs images, and the inputs are {type(observation.task.space).__name__}"
    return None


def counted_targets(observation: Observation, seed: int) -> Tensor | str:
    """Targets where only their counts need to be known, because the search does not care which image is which.

    Args:
        observation: what the attacker holds, with the batch size.
        seed: of the recovery.

    Returns:
        Target probabilities `[N, C]`: those given, or the recovered ones sorted by class; or why there are none.
    """
    task = observation.task
    if observation.targets is not None:
        return task.target_probabilities(observation.targets)
    if observation.batch_size is None:
        return "the batch size is withheld, and this attack needs it"
    recovered = recover_counts(observation, observation.batch_size, seed=seed)
    if not isinstance(recovered, LabelCounts):
        return f"the labels are unknown and cannot be recovered: {recovered.reason}"
    return task.target_probabilities(torch.arange(task.num_classes).repeat_interleave(recovered.counts.long()))


def gray_starts(shape: tuple[int, ...], bounds: tuple[float, float], restarts: int, seed: int) -> Tensor:
    """Mid-range images with a little noise, flat: `[restarts, D]`, float64."""
    low, high = bounds
    rows = [
        torch.randn(shape, generator=stage_generator(seed, f"attack/start/{restart}"), dtype=torch.float64).flatten()
        for restart in range(restarts)
    ]
    return (0.5 * (low + high) + 0.1 * (high - low) * torch.stack(rows)).clamp(low, high)
