"""By what leakage is judged: one figure of merit for each kind of data, and the words that go with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Merit:
    """A figure of merit; the higher, the worse for the owner of the data.

    Attributes:
        score: the column of scores.
        title: of columns and axes.
        unit: behind a number, or an empty text for a share in [0, 1].
        digits: behind the point.
        recognizable: from here on a person can tell what it is.
        close: from here on little is missing.
        highest: the largest value, or infinity.
        noun: one private example.
        columns: scores that tables show, with their titles and digits, this one first.
    """

    score: str
    title: str
    unit: str
    digits: int
    recognizable: float
    close: float
    highest: float
    noun: str
    columns: tuple[tuple[str, str, int], ...]

    @property
    def axis(self) -> str:
        """Title with unit, such as `PSNR (dB)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def heading(self) -> str:
        """The same for a table, such as `PSNR, dB`."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def number(self, value: float) -> str:
        """A value without unit; a dash for NaN."""
        if math.isnan(value):
            return "–"
        return ("∞" if value > 0 else "-∞") if math.isinf(value) else f"{value:.{self.digits}f}"

    def value(self, value: float) -> str:
        """A value in a sentence, such as `23.4 dB` or `token accuracy 0.94`."""
        return f"{self.number(value)} {self.unit}" if self.unit else f"{self.word} {self.number(value)}"

    def at(self, threshold: float) -> str:
        """A threshold, such as `20 dB` or `token accuracy 0.5`."""
        return f"{threshold:g} {self.unit}" if self.unit else f"{self.word} {threshold:g}"

    @property
    def word(self) -> str:
        """The title inside a sentence."""
        return self.title if self.unit else self.title.lower()

    def counted(self, count: int) -> str:
        """Such as `1 private image` or `3 private texts`."""
        return f"{count} private {self.noun}" + ("" if count == 1 else "s")

    @property
    def article(self) -> str:
        """One of them, such as `an image`."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    def thresholds(self, declared: Sequence[float]) -> tuple[float, ...]:
        """The declared thresholds that such a figure can reach; two usual ones if none of them can be meant."""
        kept = tuple(at for at in declared if 0 < at <= self.highest or math.isinf(self.highest))
        return kept or (self.recognizable, self.close)


PSNR = Merit(
    "psnr",
    "PSNR",
    "dB",
    1,
    20.0,
    30.0,
    math.inf,
    "image",
    (("psnr", "PSNR, dB", 1), ("ssim", "SSIM", 3), ("correlation", "Correlation", 3)),
)
"""Images and rows of numbers: from 20 dB on a small image can be recognized, from 30 dB on it is hard to tell apart."""

TOKEN_ACCURACY = Merit(
    "token_accuracy",
    "Token accuracy",
    "",
    2,
    0.5,
    0.9,
    1.0,
    "text",
    (
        ("token_accuracy", "Token accuracy", 2),
        ("token_recall", "Tokens, any order", 2),
        ("rouge1", "ROUGE\u20111", 2),
        ("rouge2", "ROUGE\u20112", 2),
        ("rougeL", "ROUGE\u2011L", 2),
        ("exact", "Word for word", 2),
    ),
)
"""Texts: the share of positions with the right token."""

MERITS = {merit.score: merit for merit in (PSNR, TOKEN_ACCURACY)}
"""By the column of scores."""

TEXT_SCORES = tuple(name for name, _, _ in TOKEN_ACCURACY.columns)
"""Columns of scores that only texts have."""

_TITLES = {name: title for merit in MERITS.values() for name, title, _ in merit.columns}


def score_at(score: str, threshold: float) -> str:
    """A threshold of any score in words, such as `20 dB` or `ROUGE-1 0.9`."""
    if score in MERITS:
        return MERITS[score].at(threshold)
    title = _TITLES.get(score, score).replace("\u2011", "-")  # a plain one, since people search logs
    return f"{title if title.startswith(('ROUGE', 'SSIM')) else title.lower()} {threshold:g}"
