"""Which setting to take, in words, with what the answer rests on."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradleak.audits.frontier import Interval, Point

_POINTS = 100.0


def recommendation(points: "Sequence[Point]", threshold: float, below: float) -> tuple[str, ...]:
    """The answer, what else is known, and the assumptions.

    Args:
        points: of one model and data set.
        threshold: PSNR in dB, or token accuracy, from which an image or a text counts as reconstructed.
        below: what the upper end of the leak rate must not reach.

    Returns:
        Sentences.
    """
    if not points:
        return ()
    limit = f"At the limit of {_POINTS * below:g} % of captured batches at {points[0].judged.merit.at(threshold)}"
    stopping = sorted((point for point in points if point.state in {"stops", "bounded"}), key=_by_accuracy)
    held = [point for point in points if point.state == "open"]
    sentences: list[str] = []
    if not stopping:
        sentences.append(f"{limit}, none of the settings tried is shown to stop this attack.")
    elif not stopping[0].defended:
        sentences.append(
            f"{limit}, {stopping[0].label} needs no defense: {rate_words(stopping[0])}. This is what these attacks "
            "could do, and no proof that others cannot do more."
        )
    else:
        sentences.append(
            f"{limit}, {stopping[0].label} {_stops(stopping[0])} ({rate_words(stopping[0])}){_cost(stopping[0])}."
        )
        if len(stopping) > 1:
            others = "; ".join(f"{point.label}{_by_bound(point)}{_cost(point)}" for point in stopping[1:4])
            sentences.append(f"So do, ordered by accuracy: {others}.")
    if held:
        named = "; ".join(f"{point.label}{_cost(point)} ({_why(point)})" for point in held[:4])
        sentences.append(f"Inconclusive: {named}.")
    leaking = [point for point in points if point.state == "leaks"]
    if leaking:
        named = "; ".join(f"{point.label} ({rate_words(point)})" for point in leaking[:6])
        more = f"; and {len(leaking) - 6} more" if len(leaking) > 6 else ""
        sentences.append(f"Not stopped by: {named}{more}.")
    return (*sentences, _assumptions(points))


def rate_words(point: "Point") -> str:
    """Such as `0 of 20 leaked, at most 14 % at 95 %`, with trials that may have leaked counted as if they had."""
    found = point.leak.beyond
    if point.state == "bounded":
        return (
            f"{found.successes} of {found.trials} leaked, and none of these attackers exceeds {point.prior_bound:.1f} "
            "dB on average"
        )
    if not found.trials:
        return "no trials"
    if point.state == "leaks":
        ends = f"{_POINTS * found.low:.0f} to {_POINTS * found.high:.0f} % at 95 %"
        return f"{found.successes} of {found.trials} leaked, {ends}"
    return f"{found.successes} of {found.trials} leaked, at most {_POINTS * point.leak.at_most:.0f} % at 95 %"


def _stops(point: "Point") -> str:
    if point.state == "bounded":
        return "stops, by its bound, attackers who know of images no more than auto does"
    return "stops this attack"


def _by_bound(point: "Point") -> str:
    return f" by its bound ({point.prior_bound:.1f} dB)" if point.state == "bounded" else ""


def points_words(price: "Interval") -> str:
    """Points of accuracy with their interval, such as `12.3 points [10.1, 14.5]`."""
    value = f"{_POINTS * price.value:.1f} points"
    if math.isnan(price.low):
        return value
    return f"{value} [{_POINTS * price.low:.1f}, {_POINTS * price.high:.1f}]"


def _by_accuracy(point: "Point") -> tuple[bool, float]:
    """Most accurate first; those of unknown accuracy last."""
    value = point.accuracy.value
    return math.isnan(value), -value if not math.isnan(value) else 0.0


def _cost(point: "Point") -> str:
    if not math.isnan(point.price.value):
        return f" at a price of {points_words(point.price)} of test accuracy"
    if not math.isnan(point.accuracy.value):
        return f" with a test accuracy of {_POINTS * point.accuracy.value:.1f} %"
    return f" at an unknown price ({point.trouble or 'not trained'})"


def _why(point: "Point") -> str:
    found = point.leak
    if found.unsettled:
        attacks = f"{found.unsettled} of {found.beyond.trials} attacks"
        return f"nothing leaked, but {attacks} ended before they reproduced the update"
    return f"{rate_words(point)}: too few trials for this limit"


def _assumptions(points: "Sequence[Point]") -> str:
    judged = [point.judged for point in points]
    settings = judged[0].settings
    knows = {bool(group.settings.get("threat.defense_known", True)) for group in judged}
    parts = [
        "the attacker knows the defense" if knows == {True} else "the attacker may or may not know the defense",
        "sees one update",
        f"batches of {_listed(sorted({group.batch_size for group in judged}))}",
        f"a model at {settings['stage']}"
        if settings.get("stage")
        else "an untrained model"
        if "model.weights" not in settings
        else "the model's weights as given",
        f"attacks {_listed(sorted({group.attack for group in judged}))}{_means(settings)}",
    ]
    seeds = [point.seeds for point in points if point.seeds]
    if seeds:
        parts.append(
            f"accuracy from short trainings of {min(seeds)} seed{'s' if min(seeds) > 1 else ''}, tested on "
            f"{max(point.test_examples for point in points)} examples"
        )
    local = (
        " A bound is no proof: it is by the derivative at the batches that were looked at (a network that jumps in "
        "between, as with ReLU, may tell more), on average, and not about attackers who know more of images."
        if any(point.state == "bounded" for point in points)
        else ""
    )
    return f"Assumptions: {'; '.join(parts)}. A stronger attack may still succeed.{local}"


def _means(settings: Mapping[str, object]) -> str:
    seconds = settings.get("attack.max_seconds")
    return f" with {seconds:g} s each" if isinstance(seconds, int | float) else ""


def _listed(values: Sequence[object]) -> str:
    words = list(map(str, values))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
