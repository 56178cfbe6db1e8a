"""Does it protect? One sentence for each curve, careful in both directions.

Success is a captured batch of which at least one image reached the threshold and came closer than every answer that
never saw the update. A setting protects where even the upper end of the 95 % interval is small, with every trial
counted as a leak whose attack neither succeeded nor reproduced the update: an attack out of time is no protection.
"""

from collections.abc import Sequence
from typing import Literal

from gradleak.audits.report.axes import Axis, AxisLine, axes_of
from gradleak.audits.store import Contents, Group, leak_at

SMALL = 0.2
"""Largest upper end of the interval of the success rate that still counts as protection."""

State = Literal["leaks", "protects", "open"]

_ENDINGS = {
    "budget": "ended before it reproduced the update",
    "nonfinite": "diverged",
    "error": "crashed",
    "not_applicable": "did not apply",
}


def answers_of(contents: Contents) -> list[str]:
    """The sentences of every curve, at the first declared threshold.

    Args:
        contents: of a store.

    Returns:
        One sentence for each line of each axis.
    """
    return [answer(axis, line, axis.threshold) for axis in axes_of(contents.summary.groups) for line in axis.lines]


def answer(axis: Axis, line: AxisLine, threshold: float) -> str:
    """Whether moving along an axis protects.

    Args:
        axis: what was varied.
        line: one attack in one setting.
        threshold: PSNR in dB, or token accuracy, from which an image or a text counts as reconstructed, a declared one.

    Returns:
        A sentence: the success rates with their 95 % intervals, and where they protect, do not, or tell nothing.
    """
    places = [axis.word(place) for place in line.places]
    states: list[State] = [state_of(group, threshold) for group in line.groups]
    return (
        f"{line.title}: {_course(axis, line, places, threshold)}; {_verdict(line.groups, places, states, threshold)}."
    )


def state_of(group: Group, threshold: float) -> State:
    """What one point of a curve shows.

    Returns:
        `protects`, `leaks`, or `open`.
    """
    leak = leak_at(group.leaks, threshold)
    if leak.beyond.trials and leak.at_most <= SMALL:
        return "protects"
    return "leaks" if leak.beyond.successes else "open"


def rate_words(group: Group, threshold: float) -> str:
    """Such as `0.10 [0.03, 0.30]`."""
    found = leak_at(group.leaks, threshold).beyond
    return f"{found.share:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _course(axis: Axis, line: AxisLine, places: Sequence[str], threshold: float) -> str:
    """The rates: of every place where places are words, else of both ends."""
    rates, at = [rate_words(group, threshold) for group in line.groups], line.groups[0].merit.at(threshold)
    if axis.words:
        named = [f"{rate} at {place}" for rate, place in zip(rates, places, strict=True)]
        return f"by {axis.title}, success at {at} is {_listed(named)}"
    first, last = (leak_at(group.leaks, threshold).beyond.share for group in (line.groups[0], line.groups[-1]))
    if rates[0] == rates[-1]:
        return f"success at {at} is {rates[0]} at {axis.title} {places[0]} as at {places[-1]}"
    moves = "falls" if last < first else "rises" if last > first else "goes"
    ends = f"from {rates[0]} at {axis.title} {places[0]} to {rates[-1]} at {places[-1]}"
    return f"success at {at} {moves} {ends}"


def _verdict(groups: Sequence[Group], places: Sequence[str], states: Sequence[State], threshold: float) -> str:
    where = {state: [place for place, own in zip(places, states, strict=True) if own == state] for state in states}
    if set(states) == {"leaks"}:
        return "it does not protect"
    parts: list[str] = []
    if "leaks" in where:
        parts.append(f"it does not protect at {_listed(where['leaks'])}")
    if "protects" in where:
        parts.append(f"it protects at {_listed(where['protects'])} against this attack")
    if "open" in where:
        undecided = [group for group, own in zip(groups, states, strict=True) if own == "open"]
        parts.append(f"inconclusive at {_listed(where['open'])}: {_why_open(undecided, threshold)}")
    return "; ".join(parts)


def _why_open(groups: Sequence[Group], threshold: float) -> str:
    """What is missing for an answer."""
    trials = sum(group.trials for group in groups)
    if any(leak_at(group.leaks, threshold).unsettled for group in groups):
        counts = {words: sum(group.statuses.get(status, 0) for group in groups) for status, words in _ENDINGS.items()}
        endings = [
            f"{words} in {count} of {trials} trial{'' if trials == 1 else 's'}"
            for words, count in counts.items()
            if count
        ]
        return f"the attack {_listed(endings)}"
    return f"{trials} trials are too few" if trials > 1 else "one trial is too few"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
