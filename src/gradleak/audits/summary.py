"""The figures of a report.

"Worst" is worst for the owner of the data: the highest PSNR, SSIM or correlation. One leaked face is a leak, so it
always stands beside the median.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gradleak.scoring.statistics import quantiles

RECOGNIZABLE_DB = 20.0
"""From here on the content of a small image is plain to see."""

CLOSE_DB = 30.0
"""From here on a small image and its copy are hard to tell apart."""

Level = Literal["leak", "partial", "none", "unknown"]


@dataclass(frozen=True)
class Spread:
    """Median and worst (highest) of `scored` values; NaN if there is none."""

    median: float
    worst: float
    scored: int


def spread_of(values: Sequence[float]) -> Spread:
    """Median and highest of `values`, NaN left out."""
    found = quantiles(values, (0.5, 1.0))
    return Spread(found.values[0], found.values[1], found.counted)


@dataclass(frozen=True)
class Rate:
    """`successes` of `trials` with the 95 % Wilson interval, all shares in [0, 1]."""

    successes: int
    trials: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The share; NaN without any trial."""
        return self.successes / self.trials if self.trials else math.nan


@dataclass(frozen=True)
class Leak:
    """How much came back at one threshold; what was not scored counts as not reconstructed.

    Attributes:
        threshold: PSNR in dB.
        batches: captured batches of which at least one image reached the threshold. Batches are drawn independently,
            images of one batch share an update, so the interval is over batches.
        images: private examples that reached it.
        of: all private examples.
        beyond: captured batches of which at least one image reached it and came closer than every answer that never
            saw the update. In a large batch some image is always like another one.
        unsettled: batches not among those whose attack did not reproduce the update either (it ended early, diverged,
            crashed or did not apply), so that they may be leaks which nobody found.
        at_most: upper end of the 95 % interval of the success rate with all of these counted as successes too.
    """

    threshold: float
    batches: Rate
    images: int
    of: int
    beyond: Rate
    unsettled: int
    at_most: float


def leak_at(leaks: Sequence[Leak], threshold: float) -> Leak:
    """The entry of one declared threshold."""
    return next(leak for leak in leaks if leak.threshold == threshold)


@dataclass(frozen=True)
class BaselineRow:
    """What an answer without any attack scored on the same private examples."""

    name: str
    psnr: Spread
    ssim: Spread
    correlation: Spread
    leaks: tuple[Leak, ...]


@dataclass(frozen=True)
class Difference:
    """Median over private examples of how many dB one attack is above another on the same update.

    Attributes:
        attack: the one.
        other: the other.
        median: dB, positive where `attack` is ahead.
        low: lower end of the 95 % interval, from resampling captured batches.
        high: upper end.
        captures: batches that both attacked.
    """

    attack: str
    other: str
    median: float
    low: float
    high: float
    captures: int


@dataclass(frozen=True)
class Group:
    """Trials that differ in nothing but private examples and seeds.

    Attributes:
        data: name of the data set.
        attack: name of the attack.
        batch_size: private examples in one batch.
        client: the client's name.
        defenses: names with settings, or an empty text.
        threat: what was given and withheld.
        settings: everything that sets this group apart, by dotted path, for curves and comparisons.
        trials: number of trials.
        images: number of scored rows that there should be, over all trials.
        statuses: trials by status.
        psnr: dB.
        psnr_interval: 95 % interval of the median PSNR, from resampling captured batches; NaN for fewer than two.
        ssim: in [-1, 1].
        correlation: in [-1, 1].
        leaks: one entry for each threshold.
        targets_correct: share of targets found; None if they were given.
        evaluations: median over trials.
        seconds: median over trials.
        training_steps: median over trials of the cost in training steps of the same batch; NaN where not measured.
        baselines: for the same examples.
        differences: from the other attacks on the same updates.
    """

    data: str
    attack: str
    batch_size: int
    client: str
    defenses: str
    threat: str
    settings: Mapping[str, object]
    trials: int
    images: int
    statuses: dict[str, int]
    psnr: Spread
    psnr_interval: tuple[float, float]
    ssim: Spread
    correlation: Spread
    leaks: tuple[Leak, ...]
    targets_correct: Rate | None
    evaluations: float
    seconds: float
    training_steps: float
    baselines: tuple[BaselineRow, ...]
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class ImageLeak:
    """One private example, and the best that any trial made of it.

    Attributes:
        data: name of the data set.
        example: its position there.
        psnr: dB, of the best reconstruction; NaN if none has one.
        attack: which made it, or an empty text.
        trial: the id of that trial, or an empty text.
        row: the example's row in that trial.
        baseline_psnr: dB, of the best answer without any attack; NaN if none has one.
    """

    data: str
    example: int
    psnr: float
    attack: str
    trial: str
    row: int
    baseline_psnr: float

    def above(self, threshold_db: float) -> bool:
        """Whether an attack reached the threshold, and more than looking at no update does."""
        return self.psnr >= threshold_db and not self.baseline_psnr >= self.psnr


@dataclass(frozen=True)
class Summary:
    """Everything that a report says in numbers.

    Attributes:
        groups: rows of the leakage table.
        images: one entry for each private example, over all attacks.
        statuses: trials by status.
    """

    groups: tuple[Group, ...] = ()
    images: tuple[ImageLeak, ...] = ()
    statuses: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def trials(self) -> int:
        """The number of trials."""
        return sum(self.statuses.values())

    @property
    def best(self) -> Spread:
        """PSNR of the best reconstruction of each private example, in dB."""
        return spread_of([image.psnr for image in self.images])

    @property
    def worst(self) -> ImageLeak | None:
        """The private example with the best reconstruction, or None if no reconstruction has a PSNR."""
        scored = [image for image in self.images if not math.isnan(image.psnr)]
        return max(scored, key=lambda image: image.psnr) if scored else None

    def above(self, threshold_db: float) -> int:
        """How many private examples an attack reconstructed at this PSNR or better, baselines excluded."""
        return sum(image.above(threshold_db) for image in self.images)

    @property
    def level(self) -> Level:
        """The verdict.

        `leak` if an image is close, `partial` if one is recognizable; otherwise `none` only if some attack did
        reproduce the update and still found another image, and `unknown` if every attack failed.
        """
        if self.above(CLOSE_DB):
            return "leak"
        if self.above(RECOGNIZABLE_DB):
            return "partial"
        return "none" if self.best.scored and self.statuses.get("converged") else "unknown"
