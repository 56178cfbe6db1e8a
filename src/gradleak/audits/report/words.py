"""Figures and findings as people read them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gradleak.audits.store import CLOSE_DB, RECOGNIZABLE_DB, Difference, Rate, Summary

STATUS = {
    "converged": ("update reproduced", "good"),
    "budget": ("attack ended early", "warn"),
    "nonfinite": ("attack diverged", "warn"),
    "not_applicable": ("not applicable", "mute"),
    "error": ("attack crashed", "bad"),
}
"""Status to what it says and how it is colored."""

SHORT_STATUS = {
    "converged": "reproduced",
    "budget": "ended early",
    "nonfinite": "diverged",
    "not_applicable": "not applicable",
    "error": "crashed",
}
"""The same for the narrow column of a table."""

BASELINE = {
    "grey": "gray card",
    "mean_color": "own mean color",
    "dataset_mean": "data set mean",
    "random_other": "another image",
}

NOTHING = "–"


def decibels(value: float) -> str:
    """One decimal; a dash for NaN."""
    return fixed(value, 1)


def fixed(value: float, digits: int) -> str:
    """A number with a fixed count of digits, a sign for infinity, a dash for NaN."""
    if math.isnan(value):
        return NOTHING
    return ("∞" if value > 0 else "-∞") if math.isinf(value) else f"{value:.{digits}f}"


def whole(value: float) -> str:
    """A whole number with thin separators."""
    return NOTHING if math.isnan(value) else f"{value:,.0f}".replace(",", "\u202f")


def scientific(value: float) -> str:
    """Two digits, such as `3.4e-07`."""
    return NOTHING if math.isnan(value) else f"{value:.1e}"


def of(rate: Rate) -> str:
    """Such as `2 of 3`."""
    return f"{rate.successes} of {rate.trials}" if rate.trials else NOTHING


def percent_interval(rate: Rate) -> str:
    """Such as `21 to 94 %`."""
    return f"{100 * rate.low:.0f} to {100 * rate.high:.0f}\u202f%" if rate.trials else NOTHING


def share(count: int, total: int) -> str:
    """Such as `2 of 3`."""
    return f"{count} of {total}" if total else NOTHING


def difference(found: Difference) -> str:
    """How far one attack is ahead of another on the same updates."""
    interval = "" if math.isnan(found.low) else f", 95 % interval {fixed(found.low, 1)} to {fixed(found.high, 1)}"
    return (
        f"{found.attack} is {fixed(found.median, 1)} dB ahead of {found.other} in the median over the same images"
        f"{interval}, {found.captures} captured batches."
    )


def cell(settings: Mapping[str, object]) -> str:
    """A cell of the grid in a few words: model, stage, data, batch size, client and defenses."""
    defenses = [
        str(value) for name, value in settings.items() if name.startswith("defenses.") and name.endswith(".name")
    ]
    parts = (
        model(settings),
        settings.get("data.name"),
        f"N = {settings.get('batch_size')}",
        settings.get("client.name"),
        " + ".join(defenses) or "no defense",
    )
    return ", ".join(str(part) for part in parts if part)


def model(settings: Mapping[str, object]) -> str:
    """A model in a few words: name, stage, and what it can do if it was trained here."""
    train, test = (accuracy(settings, part) for part in ("train", "test"))
    trained = f"trained on {settings.get('model.trained.data')}, accuracy {train} (test {test})" if test else ""
    return ", ".join(str(part) for part in (settings.get("model.name"), settings.get("stage"), trained) if part)


def accuracy(settings: Mapping[str, object], part: str) -> str:
    """Train or test accuracy of the model under attack, such as `43.8 %`; empty if it is not known."""
    value = settings.get(f"model.trained.{part}_accuracy")
    return f"{100 * value:.1f}\u202f%" if isinstance(value, int | float) else ""


def baseline(name: str) -> str:
    """A baseline in words."""
    return BASELINE.get(name, name)


def images(count: int) -> str:
    """Such as `1 private image`."""
    return f"{count} private image" + ("" if count == 1 else "s")


@dataclass(frozen=True)
class Verdict:
    """What a report says first.

    Attributes:
        level: the summary's level, for the color.
        badge: one or two words.
        headline: one sentence.
        findings: further sentences.
    """

    level: str
    badge: str
    headline: str
    findings: tuple[str, ...]


def verdict(summary: Summary) -> Verdict:
    """The findings of a summary in words, the worst case first."""
    total = len(summary.images)
    close, recognizable = summary.above(CLOSE_DB), summary.above(RECOGNIZABLE_DB)
    badge, headline = {
        "leak": ("Leak", f"{_some(close, total)} reconstructed almost exactly."),
        "partial": ("Leak", f"{_some(recognizable, total)} reconstructed so that one can recognize it."),
        "none": ("No leak found", f"None of {images(total)} was reconstructed by these attacks."),
        "unknown": ("No verdict", "The attacks failed, so nothing is known about the safety of these images."),
    }[summary.level]
    if not summary.trials:
        headline = "There are no trials in this folder."
    findings = [*_leaks(summary), *_baseline(summary), *_attack_outcomes(summary.statuses)]
    if summary.level == "none":
        findings.append(
            "This is what these attacks could do with these means, and no proof that others cannot do more."
        )
    return Verdict(summary.level, badge, headline, tuple(findings))


def _some(count: int, total: int) -> str:
    if count == total:
        return f"The {images(1)} was" if total == 1 else f"All {images(total)} were"
    return f"{count} of {images(total)} {'was' if count == 1 else 'were'}"


def _leaks(summary: Summary) -> list[str]:
    """Worst case beside the median."""
    worst = summary.worst
    if worst is None:
        return []
    return [
        f"Worst case: {worst.data} image {worst.example}, at {decibels(worst.psnr)} dB by {worst.attack}. "
        f"Median of the best reconstruction of each image: {decibels(summary.best.median)} dB. "
        "One leaked image is a leak, however low the median.",
    ]


def _baseline(summary: Summary) -> list[str]:
    reached = [image.baseline_psnr for image in summary.images if not math.isnan(image.baseline_psnr)]
    if not reached:
        return []
    sentence = f"An answer that never saw the update reaches at most {decibels(max(reached))} dB on these images."
    above = sum(value >= RECOGNIZABLE_DB for value in reached)
    if above:
        sentence += (
            f" For {above} of them that is {RECOGNIZABLE_DB:.0f} dB or more by itself, so an image counts as "
            "reconstructed only where an attack comes closer than that."
        )
    return [sentence]


def _attack_outcomes(statuses: Mapping[str, int]) -> list[str]:
    """A failed attack told apart from a finding."""
    total = sum(statuses.values())
    if not total:
        return []
    sentence = f"{statuses.get('converged', 0)} of {total} trials reproduced the shared update."
    others = [
        f"{statuses[status]} {words}"
        for status, words in (
            ("budget", "ended before it got there"),
            ("nonfinite", "diverged"),
            ("not_applicable", "did not apply"),
            ("error", "crashed"),
        )
        if statuses.get(status)
    ]
    if others:
        sentence += f" Of the others {', '.join(others)}: a failed attack is not the same as no leak."
    return [sentence]
