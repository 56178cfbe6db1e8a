"""Optimization for networks with smooth activations, where the update is matched down to rounding."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from gradleak.attacks.descent import descend
from gradleak.attacks.head import find_head
from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import normalized_squared_distance
from gradleak.attacks.polish import polish
from gradleak.attacks.protocol import Progress
from gradleak.attacks.restoration import restored
from gradleak.attacks.starts import Start, flat, grey, low_frequency
from gradleak.optim import LevenbergMarquardt, Limits, WolfeLBFGS
from gradleak.reconstructions import Reconstruction
from gradleak.threat import Observation

# A run that leaves more than this share of the update's squared norm unexplained is stuck, not unfinished.
_STUCK = 1e-4
# Where a single example is found, at most 3e-5 is left after so many evaluations; where not, 2e-2 and more.
_MILESTONE = (200, 1e-3)
# One example whose update is matched less well may gain decibels from a search layer by layer.
_ROUGH = 1e-10
# Matched far below float32 rounding of the update's entries: nothing more to learn.
_EXPLAINED = 1e-15


@dataclass(frozen=True)
class Staged:
    """L-BFGS from grey in weighted frequencies, from other starts while stuck, and Gauss-Newton for the last digits.

    A single example that the first round does not settle (it ends early where it is plainly stuck) is searched from
    the classifier down before other starts are tried: networks that saturate, as wide tanh networks do, give in to
    nothing else. The label of a single example
    comes from the sign of the classifier's bias; those of a batch, and that of an example whose classifier was not
    sent, are optimized with the images. All in float64, which
    costs nothing on small models, and unlike float32 resolves a flat gradient map.

    Args:
        name: the attack's name in tables.
        round_evaluations: largest number of evaluations of one round.
        restarts: rounds, each from another start, until one is not stuck; the best by objective is kept.
        layerwise: search single examples from the classifier down, see `descent.descend`.
        polishing: finish by Levenberg-Marquardt.
        spectrum: exponent of the weighted frequencies.
        max_evaluations: over all rounds and Jacobian products.
        max_seconds: wall time.
        snapshots: how many candidates to keep for pictures.
    """

    name: str = "staged"
    round_evaluations: int = 1500
    restarts: int = 4
    layerwise: bool = True
    polishing: bool = True
    spectrum: float = 0.7
    max_evaluations: int | None = None
    max_seconds: float | None = None
    snapshots: int = 24

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        observation = restored(observation)
        best = self._round(observation, 0, self.max_evaluations, self.max_seconds)(
            observation, seed=seed, progress=progress
        )
        rough = best.objective
        best = self._descended(observation, best, began)
        # The least squares below the deepest known layer see more than those of the whole network, which come last.
        polishing = self.polishing and not _STUCK >= best.objective < rough
        used = best.evaluations
        for number in range(1, self.restarts):
            left, seconds = self._evaluations_left(used), self._seconds_left(began)
            if best.status == "not_applicable" or best.objective <= _STUCK or left == 0 or seconds == 0:
                break
            attack = self._round(observation, number, left, seconds)
            found = attack(observation, seed=seed + number, progress=_shifted(progress, used))
            used += found.evaluations
            best = found if found.objective < best.objective else best
        best = replace(best, evaluations=used, seconds=time.perf_counter() - began)
        left, seconds = self._evaluations_left(used), self._seconds_left(began)
        if not polishing or left == 0 or seconds == 0 or best.status in {"nonfinite", "not_applicable"}:
            return best
        return polish(
            observation,
            best,
            solver=LevenbergMarquardt(dense_below=0, steps=200),
            spectrum=self.spectrum,
            limits=Limits(products=left, seconds=seconds, target=_EXPLAINED),
        )

    def _descended(self, observation: Observation, best: Reconstruction, began: float) -> Reconstruction:
        """The search from the classifier down, from grey if the first round is stuck and else from where it ended."""
        left, seconds = self._evaluations_left(best.evaluations), self._seconds_left(began)
        unsettled = best.status not in {"not_applicable", "nonfinite"} and best.objective > _ROUGH
        if not self.layerwise or not unsettled or left == 0 or seconds == 0:
            return best
        start = best.variable if best.objective <= _STUCK else torch.full_like(best.variable, 0.5)
        return descend(observation, best, start, max_evaluations=left, max_seconds=seconds)

    def _round(self, observation: Observation, number: int, left: int | None, seconds: float | None) -> Inversion:
        """One round's inversion; the first begins at grey, or close to it where examples must be told apart."""
        single = observation.batch_size == 1
        # The sign rule reads the classifier, which need not be among what was sent.
        head = find_head(observation.task, observation.state) if single else None
        images = len(observation.task.space.variable_shape) == 3
        start: Start = grey if single and number == 0 else flat(0.5, spread=0.1)
        if images and number > 0:
            start = low_frequency(4 * number)
        return Inversion(
            name=self.name,
            objective=normalized_squared_distance,
            optimizer=lambda _count: WolfeLBFGS(),
            labels="joint" if head is None else "bias_sign",
            start=start,
            spectrum=self.spectrum,
            precision="double",
            max_evaluations=self.round_evaluations if left is None else min(left, self.round_evaluations),
            max_seconds=seconds,
            stop_at=_EXPLAINED,
            milestone=_MILESTONE if single and self.layerwise and number == 0 else None,
            snapshots=self.snapshots,
        )

    def _evaluations_left(self, used: int) -> int | None:
        """Evaluations that the budget still allows."""
        return None if self.max_evaluations is None else max(0, self.max_evaluations - used)

    def _seconds_left(self, began: float) -> float | None:
        """Seconds that the budget still allows."""
        return None if self.max_seconds is None else max(0.0, self.max_seconds - (time.perf_counter() - began))


def staged(
    *,
    restarts: int = 4,
    round_evaluations: int = 1500,
    layerwise: bool = True,
    polishing: bool = True,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Staged:
    """The strongest optimization attack here for networks with smooth activations; see `Staged`.

    Args:
        restarts: rounds, each from another start, until one is not stuck.
        round_evaluations: largest number of evaluations of one round.
        layerwise: search single examples from the classifier down where the first round does not settle them.
        polishing: finish by Levenberg-Marquardt.
        max_evaluations: over all rounds and Jacobian products.
        max_seconds: wall time.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    return Staged(
        restarts=restarts,
        round_evaluations=round_evaluations,
        layerwise=layerwise,
        polishing=polishing,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )


def _shifted(progress: Progress | None, used: int) -> Callable[[int, float], None] | None:
    """The same report, counting earlier rounds."""
    return None if progress is None else lambda count, best: progress(used + count, best)
