"""Figures and findings as people read them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from gradleak.audits.store import MERITS, PSNR, Difference, Merit, Rate, Summary

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
    "frequent_tokens": "most frequent tokens",
    "random_tokens": "random tokens",
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
    merit = MERITS[found.score]
    ends = f"{merit.number(found.low)} to {merit.number(found.high)}"
    interval = "" if math.isnan(found.low) else f", 95 % interval {ends}"
    ahead = f"{merit.number(found.median)} {merit.unit}".strip()
    where = "" if merit.unit else f"in {merit.word}, "
    return (
        f"{found.attack} is {ahead} ahead of {found.other} {where}in the median over the same {merit.noun}s"
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


def baseline(name: str, noun: str = "image") -> str:
    """A baseline in words."""
    return f"another {noun}" if name == "random_other" else BASELINE.get(name, name)


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
    merit = summary.merit
    badge, headline = {
        "leak": ("Leak", _close(summary)),
        "partial": ("Leak", _partial(summary)),
        "none": (
            "No leak found",
            f"None of {merit.counted(len(summary.own))} was {_done(merit)} by these attacks.",
        ),
        "unknown": ("No verdict", f"The attacks failed, so nothing is known about the safety of these {merit.noun}s."),
    }[summary.level]
    if not summary.trials:
        headline = "There are no trials in this folder."
    findings = [*_leaks(summary), *_tokens(summary), *_baseline(summary), *_attack_outcomes(summary.statuses)]
    if summary.level == "none":
        findings.append(
            "This is what these attacks could do with these means, and no proof that others cannot do more."
        )
    return Verdict(summary.level, badge, headline, tuple(findings))


def _done(merit: Merit) -> str:
    """What attacks do to this kind of data."""
    return "reconstructed" if merit == PSNR else "recovered"


def _close(summary: Summary) -> str:
    if summary.merit == PSNR:
        return f"{_some(summary.above(PSNR.close), summary)} reconstructed almost exactly."
    if summary.exact:
        return f"{_some(summary.exact, summary)} recovered word for word."
    found = _some(summary.above(summary.merit.close), summary)
    return f"{found} recovered with at least {100 * summary.merit.close:g}\u202f% of the tokens in place."


def _partial(summary: Summary) -> str:
    recognizable = summary.above(summary.merit.recognizable)
    if summary.merit == PSNR:
        return f"{_some(recognizable, summary)} reconstructed so that one can recognize it."
    if recognizable:
        share = f"{100 * summary.merit.recognizable:g}\u202f%"
        return f"{_some(recognizable, summary)} recovered with at least {share} of the tokens in place."
    return f"The words of {summary.as_words} of {summary.merit.counted(len(summary.own))} were recovered, in no order."


def _some(count: int, summary: Summary) -> str:
    total, merit = len(summary.own), summary.merit
    if count == total:
        return f"The {merit.counted(1)} was" if total == 1 else f"All {merit.counted(total)} were"
    return f"{count} of {merit.counted(total)} {'was' if count == 1 else 'were'}"


def _leaks(summary: Summary) -> list[str]:
    """Worst case beside the median."""
    worst = summary.worst
    if worst is None:
        return []
    merit, noun = summary.merit, summary.merit.noun
    return [
        f"Worst case: {worst.data} {noun} {worst.example}, at {merit.value(worst.best)} by {worst.attack}. "
        f"Median of the best reconstruction of each {noun}: {merit.value(summary.best.median)}. "
        f"One leaked {noun} is a leak, however low the median.",
    ]


def _tokens(summary: Summary) -> list[str]:
    """What is known of texts whatever the order: a set of words may be all that somebody needs."""
    reached = [text.recall for text in summary.own if not math.isnan(text.recall)]
    if not reached:
        return []
    chance = max((text.baseline_recall for text in summary.own if not math.isnan(text.baseline_recall)), default=0.0)
    return [
        f"Tokens in any order: attacks found {100 * median(reached):.0f}\u202f% of a text's distinct tokens in the "
        f"median and {100 * max(reached):.0f}\u202f% at worst; answers that never saw the update hold at most "
        f"{100 * chance:.0f}\u202f%."
    ]


def _baseline(summary: Summary) -> list[str]:
    merit = summary.merit
    reached = [image.baseline for image in summary.own if not math.isnan(image.baseline)]
    if not reached:
        return []
    sentence = (
        f"An answer that never saw the update reaches at most {merit.value(max(reached))} on these {merit.noun}s."
    )
    above = sum(value >= merit.recognizable for value in reached)
    if above:
        sentence += (
            f" For {above} of them that is {merit.at(merit.recognizable)} or more by itself, so {merit.article} counts "
            f"as {_done(merit)} only where an attack comes closer than that."
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
