"""An update against the recomputed one, and against everything that could be expected besides rounding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradleak.consistency.causes import SHOWN_DEFENSES, causes_entry_by_entry, causes_of
from gradleak.consistency.comparison import (
    Cause,
    Fit,
    Tensors,
)
from gradleak.consistency.intervals import within_intervals
from gradleak.consistency.latents import with_latents_read
from gradleak.consistency.local_training import judged_with_unknown_order, order_is_unknown, order_spread
from gradleak.consistency.precision import (
    Precision,
    adds_noise,
    client_noise,
    low_precision,
    other_inputs,
    precision_of,
    stated_noise,
    unbiased,
    with_noise,
)
from gradleak.consistency.private_draws import Believed, Judgement, hidden_draws, judged_by_draws, noisy_defenses
from gradleak.consistency.recomputing import step_of
from gradleak.consistency.search import Question
from gradleak.defenses import ChangesTask, Defense


@dataclass(frozen=True, eq=False)
class Compared:
    """An update against the recomputed one.

    Attributes:
        question: with what recomputes it.
        computed: the recomputed update.
        fit: of the two.
        precision: how exactly they can be expected to agree.
        error: relative; with the best scale where the scale is free.
        within: whether that is precision enough.
    """

    question: Question
    computed: Tensors
    fit: Fit
    precision: Precision
    error: float
    within: bool

    @staticmethod
    def of(question: Question, precision: Precision | None = None) -> "Compared":
        """Recompute and compare; the precision follows from the update's number format if it is not given."""
        update, setting = question.update, question.setting
        computed = question.recompute(setting)
        fit = question.fit(computed)
        error = fit.scaled_error if setting.client.kind != update.kind and fit.scale > 0 else fit.relative_error
        if precision is None:
            precision = precision_of(update.tensors, computed, question.task.dtype)
        # The error of rounding has a share along the update too, for which the scale stands.
        only_rounded = fit.scaled_error <= precision.tolerance and abs(fit.scale - 1) <= precision.tolerance
        return Compared(question, computed, fit, precision, error, error <= precision.tolerance or only_rounded)


def judged(question: Question, believed: Believed, max_seconds: float) -> tuple[Compared, tuple[Cause, ...]]:
    """Compare an update with the recomputed one, first to rounding, then with everything that may be drawn.

    Args:
        question: what is to be explained.
        believed: how the update is made.
        max_seconds: time for trying causes.

    Returns:
        The comparison that decides, and what speaks against the update.
    """
    compared = Compared.of(question)
    update, setting = question.update, question.setting
    causes: tuple[Cause, ...] = ()
    judgement: Judgement | None = None
    if not compared.within and setting.client.kind == update.kind:
        hidden = hidden_draws(believed, setting)
        exact = not adds_noise(setting.client) and not order_is_unknown(setting.client, len(setting.variable))
        if hidden:
            compared, judgement = _with_secrets(compared, believed, hidden, max_seconds)
        elif exact:
            compared = _entry_by_entry(compared, believed.defenses)
    if not compared.question.scaled and not compared.within:
        question, tolerance = compared.question, compared.precision.tolerance
        before = step_of(question.task, (), 1, update.kind)(setting)
        causes = causes_entry_by_entry(question, compared.fit, believed.defenses, before, tolerance, max_seconds)
    elif judgement is None:
        compared, causes = _with_noise_and_order(compared, believed.defenses, max_seconds)
        if not compared.within and not any(cause.proven for cause in causes):
            judgement = _with_noisy_defenses(compared, believed)
    if judgement is not None:
        precision = Precision(max(judgement.tolerance, compared.error * judgement.within), judgement.statement)
        compared, causes = replace(compared, precision=precision, within=judgement.within), judgement.causes
    return compared, causes


def _with_secrets(
    compared: Compared, believed: Believed, hidden: list[str], max_seconds: float
) -> tuple[Compared, Judgement | None]:
    """With secrets of the client's step, read from the update where that is possible, else judged by their law."""
    question, precision = compared.question, compared.precision
    if all(isinstance(defense, ChangesTask) for defense in believed.defenses):
        read = with_latents_read(question.task, question.setting, question.update, precision, max_seconds / 2)
        if read is not None:
            known = Compared.of(replace(question, recompute=read[0]), read[1])
            # Examples of one class may have been taken for each other; otherwise the noise is that of the update.
            if known.within or len(question.seen.unique()) == len(question.seen):
                return known, None
    return compared, judged_by_draws(question.update.tensors, believed, hidden, precision)


def _entry_by_entry(compared: Compared, defenses: Sequence[Defense]) -> Compared:
    """With defenses that draw, but leave an interval of every entry."""
    question = compared.question
    undefended = step_of(question.task, (), 1, question.update.kind)
    tolerance = compared.precision.tolerance
    nearest = within_intervals(defenses, question.update, undefended, question.setting, tolerance)
    if nearest is None:
        return compared
    names = ", ".join(type(defense).__name__ for defense in defenses)
    note = f"{compared.precision.statement}, of what {names} can make of the update with any draw"
    question = replace(question, recompute=nearest, scaled=False)
    return Compared.of(question, replace(compared.precision, statement=note))


def _with_noise_and_order(
    compared: Compared, defenses: Sequence[Defense], max_seconds: float
) -> tuple[Compared, tuple[Cause, ...]]:
    """With stated noise and unknown orders, and with the causes if the update is still not within."""
    question, computed, fit = compared.question, compared.computed, compared.fit
    precision, within, error = compared.precision, compared.within, compared.error
    update, setting = question.update, question.setting
    if not within:
        noise = stated_noise(computed, update, setting.client.kind, defenses)
        noise = max(noise, client_noise(setting, question.task, computed, update))
        if noise > 0:
            precision = with_noise(precision, noise)
            within = error <= precision.tolerance and unbiased(update.tensors, computed, noise)
    order: Cause | None = None
    compared_tensors = {name: computed[name] for name in update.tensors}
    if not within:
        spread = order_spread(setting, question.recompute, compared_tensors)
        if spread:
            power = other_inputs(setting, question.recompute, compared_tensors)
            precision, within, order = judged_with_unknown_order(precision, setting.client, fit, spread, power)
    hopeless = order is not None and order.name == "unknown_order"
    causes: tuple[Cause, ...] = ()
    if not within and not hopeless:
        causes = tuple(causes_of(question, computed, fit, min(precision.tolerance, 0.5), max_seconds))
    causes = causes if order is None else (order, *causes)
    if not within and not any(cause.proven or cause.name in SHOWN_DEFENSES for cause in causes):
        arithmetic = low_precision(setting, question.recompute, compared_tensors, error)
        if arithmetic is not None:
            precision, within, causes = arithmetic, True, ()
    return replace(compared, precision=precision, within=within), causes


def _with_noisy_defenses(compared: Compared, believed: Believed) -> Judgement | None:
    """With defenses that draw before others, as noise before signs; None if none does, or that explains nothing."""
    client = compared.question.setting.client
    if client.kind != compared.question.update.kind:
        return None
    noisy = noisy_defenses(believed.defenses, compared.computed, client)
    # One defense alone is judged as noise, except where the order of the batches comes on top.
    if not noisy or (len(believed.defenses) < 2 and not order_is_unknown(client, len(believed.inputs))):
        return None
    judgement = judged_by_draws(compared.question.update.tensors, believed, noisy, compared.precision)
    return judgement if judgement is not None and judgement.within else None
