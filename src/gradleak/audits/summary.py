"""The figures of a report.

"Worst" is worst for the owner of the data: the highest PSNR, SSIM or correlation, or share of a text. One leaked face
is a leak, so it always stands beside the median.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gradleak.audits.merits import MERITS, PSNR, Merit
from gradleak.scoring.statistics import quantiles

RECOGNIZABLE_DB = PSNR.recognizable
"""From here on the content of a small image is plain to see."""

CLOSE_DB = PSNR.close
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
        threshold: PSNR in dB, or token accuracy.
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
    """What an answer without any attack scored on the same private examples; see `Group`."""

    name: str
    psnr: Spread
    ssim: Spread
    correlation: Spread
    leaks: tuple[Leak, ...]
    score: str = PSNR.score
    scores: Mapping[str, Spread] = field(default_factory=dict[str, Spread])
    exact: int = 0

    @property
    def leakage(self) -> Spread:
        """Of the figure of merit."""
        return self.spread(self.score)

    def spread(self, score: str) -> Spread:
        """Of one column of scores."""
        return _spread(self, score)


@dataclass(frozen=True)
class Difference:
    """Median over private examples of how far one attack is above another on the same update.

    Attributes:
        attack: the one.
        other: the other.
        median: dB, or token accuracy; positive where `attack` is ahead.
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
    score: str = PSNR.score


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
        score: the column of scores by which leakage is judged.
        scores: of texts, each column of theirs; the three above are NaN then.
        score_interval: the same as `psnr_interval`, of that column of texts.
        exact: how many texts were recovered word for word.
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
    score: str = PSNR.score
    scores: Mapping[str, Spread] = field(default_factory=dict[str, Spread])
    score_interval: tuple[float, float] = (math.nan, math.nan)
    exact: int = 0

    @property
    def merit(self) -> Merit:
        """By what leakage is judged."""
        return MERITS[self.score]

    @property
    def leakage(self) -> Spread:
        """Of the figure of merit."""
        return self.spread(self.score)

    @property
    def leakage_interval(self) -> tuple[float, float]:
        """95 % interval of its median."""
        return self.psnr_interval if self.score == PSNR.score else self.score_interval

    def spread(self, score: str) -> Spread:
        """Of one column of scores."""
        return _spread(self, score)


def _spread(row: Group | BaselineRow, score: str) -> Spread:
    """The three columns of images have fields of their own, which programs read."""
    usual = {"psnr": row.psnr, "ssim": row.ssim, "correlation": row.correlation}
    return usual[score] if score in usual else row.scores.get(score, Spread(math.nan, math.nan, 0))


@dataclass(frozen=True)
class ImageLeak:
    """One private example, and the best that any trial made of it.

    Attributes:
        data: name of the data set.
        example: its position there.
        best: the figure of merit of the best reconstruction: PSNR in dB, or token accuracy; NaN if none has one.
        attack: which made it, or an empty text.
        trial: the id of that trial, or an empty text.
        row: the example's row in that trial.
        baseline: the same of the best answer without any attack; NaN if none has one.
        score: the column of that figure.
        exact: of texts, whether some attack recovered it word for word.
        recall: of texts, the largest share of distinct tokens that an attack found, in any order; NaN if unknown.
        baseline_recall: the same of answers without any attack.
    """

    data: str
    example: int
    best: float
    attack: str
    trial: str
    row: int
    baseline: float
    score: str = PSNR.score
    exact: bool = False
    recall: float = math.nan
    baseline_recall: float = math.nan

    @property
    def merit(self) -> Merit:
        """By what leakage is judged."""
        return MERITS[self.score]

    @property
    def psnr(self) -> float:
        """The figure in dB; NaN for a text."""
        return self.best if self.score == PSNR.score else math.nan

    @property
    def baseline_psnr(self) -> float:
        """The same of the best answer without any attack."""
        return self.baseline if self.score == PSNR.score else math.nan

    @property
    def as_words(self) -> bool:
        """Of texts, whether an attack found nearly all tokens, order aside, and more than looking at no update does."""
        return self.recall >= self.merit.close and not self.baseline_recall >= self.recall

    def above(self, threshold: float) -> bool:
        """Whether an attack reached the threshold, and more than looking at no update does."""
        return self.best >= threshold and not self.baseline >= self.best


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
    def merit(self) -> Merit:
        """By what leakage is judged: that of the first private example, since a run has one kind of data."""
        return self.images[0].merit if self.images else PSNR

    @property
    def own(self) -> tuple[ImageLeak, ...]:
        """The private examples of that kind."""
        return tuple(image for image in self.images if image.score == self.merit.score)

    @property
    def best(self) -> Spread:
        """Figure of merit of the best reconstruction of each private example: PSNR in dB, or token accuracy."""
        return spread_of([image.best for image in self.own])

    @property
    def worst(self) -> ImageLeak | None:
        """The private example with the best reconstruction, or None if no reconstruction has a score."""
        scored = [image for image in self.own if not math.isnan(image.best)]
        return max(scored, key=lambda image: (image.best, image.exact)) if scored else None

    @property
    def exact(self) -> int:
        """How many private texts an attack recovered word for word."""
        return sum(image.exact for image in self.own)

    @property
    def as_words(self) -> int:
        """Of how many private texts an attack found nearly all tokens, order aside."""
        return sum(image.as_words for image in self.own)

    def above(self, threshold: float) -> int:
        """How many private examples an attack reconstructed at this threshold or better, baselines excluded."""
        return sum(image.above(threshold) for image in self.own)

    @property
    def level(self) -> Level:
        """The verdict.

        `leak` if an image is close, `partial` if one is recognizable (or if nearly all words of a text are known, order
        aside); otherwise `none` only if some attack did reproduce the update and still found another image, and
        `unknown` if every attack failed.
        """
        if any(image.above(image.merit.close) or image.exact for image in self.images):
            return "leak"
        if any(image.above(image.merit.recognizable) or image.as_words for image in self.images):
            return "partial"
        return "none" if self.best.scored and self.statuses.get("converged") else "unknown"
