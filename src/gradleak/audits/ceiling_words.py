"""What bounds say, in sentences: for a setting of an audit, and for batches by themselves."""

import math
from collections.abc import Sequence

from gradleak.audits.bounds import BoundFacts
from gradleak.audits.ceilings import Ceiling, Reach, Span, span_of

BIASED = "so it uses a prior (what it knows of inputs beforehand): it is biased, and this ceiling is not about it"
"""How an attack can be above the ceiling."""

SMALL = 0.01
"""Probability below which an attack is not taken for a lucky unbiased one, shared among the attacks of a setting."""

SIGNS = (
    "signs have no derivative but zero, so these bounds say nothing about what they leave; before they are taken, only "
    "rounding stops an unbiased attacker"
)
"""Of signs without noise before them."""

TOKENS = "There is no bound of all attackers: tokens have no derivative, on which these bounds rest"
"""Of an audit of texts that asks for bounds."""


def ceiling_sentence(ceiling: Ceiling, *, brief: bool = False) -> str:
    """The bound of a setting beside what the strongest attack reached on the same batches.

    Args:
        ceiling: of the setting.
        brief: leave the ceiling with a prior out.

    Returns:
        Sentences on one line.
    """
    what = f"{ceiling.label[:1].upper()}{ceiling.label[1:]}: {_of_setting(ceiling)}"
    best = next((one for one in ceiling.reached if not math.isnan(one.psnr)), None)
    return f"{what}{'' if brief else _prior_part(ceiling)}.{'' if best is None else _reached(ceiling, best)}"


def bound_sentences(found: Sequence[BoundFacts], batch_size: int) -> tuple[str, ...]:
    """The verdict on some random batches, the main one first.

    Args:
        found: one for each batch.
        batch_size: private examples in each.

    Returns:
        At least one sentence.
    """
    what = "example" if batch_size == 1 else f"batch of {batch_size}"
    total = len(found)
    said: list[str] = []
    limited = [one for one in found if not math.isnan(one.ceiling)]
    noisy = [one for one in limited if one.noisy]
    if noisy:
        span = span_of([one.ceiling for one in noisy])
        said.append(f"No unbiased attacker exceeds {span_words(span)}{_on(len(noisy), total, what)}.")
    exact = [one for one in limited if not one.noisy]
    if exact:
        span = span_of([one.ceiling for one in exact])
        said.append(
            f"There is no noise: the update determines the input, and only rounding stops an unbiased attacker, at "
            f"about {span_words(span)}{_on(len(exact), total, what)}."
        )
    free = [one for one in found if one.free_directions and one.status != "nothing"]
    if free:
        least, most = min(one.free_directions for one in free), max(one.free_directions for one in free)
        count = str(least) if least == most else f"{least} to {most}"
        said.append(
            f"No unbiased attacker recovers the whole input{_on(len(free), total, what)}: {count} of "
            f"{free[0].unknowns} directions leave no trace in the update."
        )
    if found[0].before_signs and not limited and not free:
        said.append(f"{SIGNS[0].upper()}{SIGNS[1:]}.")
    nothing = [one for one in found if one.status == "nothing"]
    if nothing:
        said.append(f"The update does not depend on the input{_on(len(nothing), total, what)}: nothing can be told.")
    failed = [one for one in found if one.failed]
    if failed:
        said.append(f"No bound{_on(len(failed), total, what)}: {failed[0].message}")
    prior = span_of([one.prior_psnr_ceiling for one in found])
    if not math.isnan(prior.median) and (noisy or free or nothing):
        name = next(one.prior for one in found if one.prior)
        said.append(f'If inputs follow the prior "{name}", no attacker at all exceeds {span_words(prior)} on average.')
    if any(one.status == "partial" for one in found):
        said.append(
            "The whole spectrum would take too long (see the assumptions), so its leading part stands for it, and the "
            "true ceiling lies lower."
        )
    return tuple(said)


def span_words(span: Span) -> str:
    """Such as `23.1 dB`, with the ends where they differ."""
    value = f"{span.median:.1f} dB"
    if f"{span.least:.1f}" == f"{span.most:.1f}":
        return value
    return f"{value} in the median ({span.least:.1f} to {span.most:.1f})"


def _on(count: int, total: int, what: str) -> str:
    things = what.replace("batch", "batches") if what.startswith("batch") else f"{what}s"
    if count == total:
        return f" on {'this' if total == 1 else f'these {total}'} {what if total == 1 else things}"
    return f" on {count} of {total} {things}"


def _of_setting(ceiling: Ceiling) -> str:
    if ceiling.failed == ceiling.batches:
        return f"there is no bound: {ceiling.message}"
    looked = f"{ceiling.batches} captured batch{'' if ceiling.batches == 1 else 'es'}"
    if ceiling.trouble:
        if ceiling.trouble.startswith("signs"):
            return SIGNS
        if ceiling.trouble.startswith("no trace"):
            return f"the update does not depend on the inputs ({looked}), so that there is nothing to recover"
        return (
            f"no unbiased attacker can recover the whole of a batch: {_count(ceiling.free)} of {ceiling.unknowns} "
            f"directions leave no trace in the update ({looked})"
        )
    span = span_words(ceiling.psnr)
    rest = ""
    if ceiling.without:
        rest = f"; in {ceiling.without} of {looked} directions leave no trace, and no unbiased estimate exists"
    if not ceiling.noisy:
        return f"there is no noise, and only rounding stops an unbiased attacker, at about {span}{rest}"
    less = ", of the leading directions alone, so the true one lies lower" if ceiling.partial else ""
    return f"no unbiased attacker can exceed {span} on {looked}{less}{rest}"


def _prior_part(ceiling: Ceiling) -> str:
    if math.isnan(ceiling.prior_psnr.median) or not (ceiling.noisy or ceiling.without):
        return ""
    prior = span_words(ceiling.prior_psnr)
    return f'; if inputs follow the prior "{ceiling.prior}", no attacker at all exceeds {prior} on average'


def _reached(ceiling: Ceiling, best: Reach) -> str:
    said = f" There {best.attack} reached {_decibels(best.psnr)}"
    if not (ceiling.noisy or ceiling.without) or math.isnan(best.ahead):
        if not ceiling.without:
            return f"{said}."
        return f"{said}, by what it takes for granted of inputs.{_beside_prior(ceiling, best)}"
    if best.ahead <= 0:
        return f"{said}, {_decibels(-best.ahead)} below."
    if best.luck * len(ceiling.reached) > SMALL:
        return f"{said}, {_decibels(best.ahead)} above, within luck: a ceiling is of the mean over draws of the noise."
    return f"{said}, {_decibels(best.ahead)} above, {BIASED}.{_beside_prior(ceiling, best)}"


def _beside_prior(ceiling: Ceiling, best: Reach) -> str:
    """What the ceiling with the prior says of an attack that uses one."""
    if math.isnan(best.ahead_prior):
        return ""
    name = f'the prior "{ceiling.prior}"'
    if best.ahead_prior <= 0:
        return f" It is {_decibels(-best.ahead_prior)} below that with {name}."
    return (
        f" It is {_decibels(best.ahead_prior)} above the second ceiling too, that with {name}, which holds on average "
        "and not for each input."
    )


def _count(span: Span) -> str:
    least, most = round(span.least), round(span.most)
    return str(least) if least == most else f"{least} to {most}"


def _decibels(value: float) -> str:
    return "∞ dB" if math.isinf(value) else f"{value:.1f} dB"
