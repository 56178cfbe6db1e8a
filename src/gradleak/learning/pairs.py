"""Pairs of updates and inputs to learn from."""

import torch
from torch import Tensor

from gradleak.errors import BadInput
from gradleak.inverters import Features
from gradleak.learning.simulating import Simulator
from gradleak.seeds import stage_generator

CHUNK = 256
"""Examples simulated together; always the same ones, so that a training that goes on has the same bits."""

MOST = 50_000
"""Examples whose features are held in memory at a time, in half precision."""

_CALIBRATED = 2_000
_LEAST = 0.01
"""A coordinate varies if its mean absolute deviation squared is this share of its variance or more: four times the
share of examples that differ, where all others agree."""


class Pairs:
    """Standardized updates of public examples.

    Attributes:
        inputs: `[n, ...]`.
        targets: classes `[n]`.
        features: what of an update is used.
    """

    def __init__(self, simulator: Simulator, inputs: Tensor, targets: Tensor, features: Features, seed: int) -> None:
        self._simulator, self.inputs, self.targets, self.features, self._seed = (
            simulator,
            inputs,
            targets,
            features,
            seed,
        )
        self._kept: Tensor | None = None

    @property
    def per_pass(self) -> int:
        """Examples in one pass."""
        return min(len(self.inputs), MOST)

    def pool(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Examples for one pass.

        Args:
            epoch: number of the pass; each has fresh randomness, if the update has any.

        Returns:
            Positions of the examples `[m]`, and their standardized updates `[m, F]` in half precision.
        """
        count = len(self.inputs)
        if self._kept is not None:
            return torch.arange(count), self._kept
        if count <= MOST:
            chosen = torch.arange(count)
        else:
            chosen = torch.randperm(count, generator=stage_generator(self._seed, f"learning/pool/{epoch}"))[:MOST]
        found = torch.empty(len(chosen), len(self.features.indices), dtype=torch.float16)
        for first in range(0, len(chosen), CHUNK):
            part = chosen[first : first + CHUNK]
            seed = draw_seed(self._seed, f"pass/{epoch}", first)
            updates = self._simulator.updates(self.inputs[part], self.targets[part], seed)
            found[first : first + CHUNK] = self.features.of(updates).half()
        if self._simulator.repeats and count <= MOST:
            self._kept = found
        return chosen, found


def draw_seed(seed: int, stage: str, first: int) -> int:
    """The seed of the private randomness of an example, at a place in a pass."""
    return (stage_generator(seed, f"learning/{stage}").initial_seed() >> 24) + first


def choose_features(simulator: Simulator, inputs: Tensor, targets: Tensor, most: int, seed: int) -> Features:
    """Draw the coordinates to use among those that vary, and measure how they are distributed.

    Args:
        simulator: makes updates.
        inputs: `[n, ...]`.
        targets: classes `[n]`.
        most: coordinates at most.
        seed: of the draws.

    Returns:
        The features.

    Raises:
        BadInput: when no coordinate varies from example to example.
    """
    order = torch.randperm(len(inputs), generator=stage_generator(seed, "learning/calibration"))[:_CALIBRATED]

    def updates(first: int) -> Tensor:
        part = order[first : first + CHUNK]
        return simulator.updates(inputs[part], targets[part], draw_seed(seed, "calibration", first)).double()

    # Large models do not fit as [examples, parameters], so sums are collected in two passes.
    starts = range(0, len(order), CHUNK)
    total = torch.stack([updates(first).sum(dim=0) for first in starts]).sum(dim=0)
    mean = total / len(order)
    squares, deviations = torch.zeros_like(mean), torch.zeros_like(mean)
    for first in starts:
        away = updates(first) - mean
        squares += away.square().sum(dim=0)
        deviations += away.abs().sum(dim=0)
    variance, deviation = squares / len(order), deviations / len(order)
    varies = ((deviation.square() >= _LEAST * variance) & (variance > 0)).nonzero().flatten()
    if len(varies) == 0:
        raise BadInput(["update: expected entries that depend on the example, got none; choose a weaker defense"])
    drawn = torch.randperm(len(varies), generator=stage_generator(seed, "learning/features"))[:most]
    indices = varies[drawn].sort().values
    return Features(indices, mean[indices].float(), variance[indices].sqrt().float())


def with_mirrored(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The images, and their mirror images after them.

    Returns:
        Inputs `[2n, ...]` and targets `[2n]`.
    """
    return torch.cat([inputs, inputs.flip(-1)]), torch.cat([targets, targets])
