"""The verdict on an update whose private batch is known, and the causes of a difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from gradleak.clients import ChecksBatch, Client, Gradient
from gradleak.clients.settings import sent_state
from gradleak.clients.stateless import dropout_layers
from gradleak.consistency.comparison import (
    Cause,
    Fit,
    Tensors,
    compare,
    per_layer_errors,
)
from gradleak.consistency.hypotheses import Setting, with_option
from gradleak.consistency.intervals import factor_causes, within_intervals
from gradleak.consistency.latents import with_latents_read
from gradleak.consistency.local_training import judged_with_unknown_order, order_spread
from gradleak.consistency.naming import match_names
from gradleak.consistency.precision import (
    Precision,
    Recompute,
    client_noise,
    low_precision,
    other_inputs,
    precision_of,
    stated_noise,
    unbiased,
    with_noise,
)
from gradleak.consistency.private_draws import Believed, Judgement, hidden_draws, judged_by_draws, noisy_defenses
from gradleak.consistency.residual import residual_causes
from gradleak.consistency.scales import scale_cause, weights_sent
from gradleak.consistency.search import Question, Search, search
from gradleak.defenses import ChangesTask, Defense, PrivateStep
from gradleak.defenses.applying import changed_task, defended, defense_problems
from gradleak.errors import refuse
from gradleak.evidence import Evidence
from gradleak.tasks import Task
from gradleak.updates import Update, UpdateKind, parted, update_problems

NAN = float("nan")
# Causes that show in the residual and that no other batch or setting would explain.
_DEFENSES = frozenset({"noise", "signs"})


@dataclass(frozen=True)
class Consistency:
    """Whether an update is what the client makes of the batch.

    Attributes:
        consistent: whether names agree and the error is within the tolerance.
        relative_error: `||h - g|| / ||h||` of observed h and recomputed g; NaN if nothing could be compared. For a
            delta without a client that makes deltas, g has the best positive scale, since its learning rate is free.
        scale: s that makes `||h - s g||` smallest (1 if consistent); for such a delta, the learning rate.
        tolerance: largest relative error that counts as equal.
        precision: one sentence on where the tolerance comes from.
        per_layer: relative error of each tensor by itself, by the model's names.
        causes: why they differ, the proven ones first; empty if consistent.
    """

    consistent: bool
    relative_error: float
    scale: float
    tolerance: float
    precision: str
    per_layer: Mapping[str, float]
    causes: tuple[Cause, ...]


def check_consistency(
    evidence: Evidence | Update,
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    *,
    client: Client | None = None,
    defenses: Sequence[Defense] | None = None,
    max_seconds: float = 60.0,
) -> Consistency:
    """Recompute an update from its true batch and say whether it is the same, and if not, why.

    Args:
        evidence: the update as it was captured.
        task: the public task; its model holds the values from before the client's step. A defense that is a part of
            the model is built in, unless the model has it already.
        inputs: the private inputs `[N, ...]` in the input space's own units.
        targets: class indices `[N]` or probabilities `[N, C]`.
        client: how the update is believed to be made; None takes the evidence's, or else a plain gradient in
            evaluation mode without dropout.
        defenses: what is believed to be done to it; None takes the evidence's, or else nothing.
        max_seconds: time for trying causes.

    Returns:
        The verdict.

    Raises:
        BadInput: when batch, client or defenses do not fit the task, or tensors are not finite real numbers.
    """
    update = evidence.update if isinstance(evidence, Evidence) else evidence
    if isinstance(evidence, Evidence):
        client = client if client is not None else evidence.client
        defenses = defenses if defenses is not None else evidence.defenses
    client = client if client is not None else Gradient(dropout="off")
    defenses = tuple(defenses or ())
    problems = task.space.problems(inputs) + task.target_problems(targets, len(inputs)) + client.problems(task)
    unfit = defense_problems(defenses, task)
    task = task if unfit else changed_task(defenses, task)
    problems += unfit
    if not problems and isinstance(client, ChecksBatch):
        problems += client.batch_problems(len(inputs))
    state = sent_state(client, task.state())
    real = {name: tensor for name, tensor in update.tensors.items() if name not in state.constants}
    refuse(problems + update_problems(real, real))  # compared with itself: only values that cannot be compared

    setting = Setting(client, state, task.encode(inputs), task.target_probabilities(targets))
    sign = 1 if client.kind == update.kind else -1
    recompute = _recompute(task, defenses, sign, client.kind)
    computed = recompute(setting)
    naming = match_names(update.tensors, computed, state)
    if update.is_empty or not naming.tensors:
        return _nothing_to_compare(update, naming.causes)
    update = replace(update, tensors=naming.tensors)
    seen = targets if targets.dim() == 1 else targets.argmax(dim=1)
    comparable = client.kind == update.kind == "gradient"
    question = Question(task, setting, update, seen.cpu(), recompute, comparable)
    return _verdict(question, naming.causes, Believed(task, inputs, targets, client, defenses), max_seconds)


def _recompute(task: Task, defenses: Sequence[Defense], sign: int, kind: UpdateKind) -> Recompute:
    """The deterministic part of the client's step and its defenses, turned to the update's kind by `sign`."""

    def recompute(setting: Setting) -> dict[str, Tensor]:
        sent = setting.client.bind(task, setting.state)(setting.variable, setting.probabilities)
        tensors, _ = parted(sent, setting.state.parameters)
        private = PrivateStep(task, setting.state, setting.variable, setting.probabilities)
        tensors = defended(defenses, tensors, kind, step=private)
        return {name: sign * tensor.detach() for name, tensor in tensors.items()}

    return recompute


def _nothing_to_compare(update: Update, causes: tuple[Cause, ...]) -> Consistency:
    if update.is_empty:
        why = "every entry of the update is zero: it says nothing about any batch; capture it after the backward pass"
        causes = (Cause("empty", why, NAN, proven=True), *causes)
    return Consistency(False, NAN, NAN, NAN, "nothing could be compared", {}, causes)


@dataclass(frozen=True, eq=False)
class _Compared:
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
    def of(question: Question, precision: Precision | None = None) -> "_Compared":
        """Recompute and compare; the precision follows from the update's number format if it is not given."""
        update, setting = question.update, question.setting
        computed = question.recompute(setting)
        fit = question.fit(computed)
        error = fit.scaled_error if setting.client.kind != update.kind and fit.scale > 0 else fit.relative_error
        if precision is None:
            precision = precision_of(update.tensors, computed, question.task.dtype)
        # The error of rounding has a share along the update too, for which the scale stands.
        only_rounded = fit.scaled_error <= precision.tolerance and abs(fit.scale - 1) <= precision.tolerance
        return _Compared(question, computed, fit, precision, error, error <= precision.tolerance or only_rounded)


def _verdict(question: Question, naming: tuple[Cause, ...], believed: Believed, max_seconds: float) -> Consistency:
    compared = _Compared.of(question)
    update, setting = question.update, question.setting
    causes: tuple[Cause, ...] = ()
    judgement: Judgement | None = None
    if not compared.within and setting.client.kind == update.kind:
        hidden = hidden_draws(believed, setting)
        if hidden:
            compared, judgement = _with_secrets(compared, believed, hidden, max_seconds)
        else:
            compared = _entry_by_entry(compared, believed.defenses)
    if not compared.question.scaled and not compared.within:
        causes = _causes_entry_by_entry(compared, believed.defenses, max_seconds)
    elif judgement is None:
        compared, causes = _with_noise_and_order(compared, believed.defenses, max_seconds)
        if not compared.within and not any(cause.proven for cause in causes):
            judgement = _with_noisy_defenses(compared, believed)
    if judgement is not None:
        precision = Precision(max(judgement.tolerance, compared.error * judgement.within), judgement.statement)
        compared, causes = replace(compared, precision=precision, within=judgement.within), judgement.causes
    return _told(compared, naming, causes)


def _with_secrets(
    compared: _Compared, believed: Believed, hidden: list[str], max_seconds: float
) -> tuple[_Compared, Judgement | None]:
    """With secrets of the client's step, read from the update where that is possible, else judged by their law."""
    question, precision = compared.question, compared.precision
    if all(isinstance(defense, ChangesTask) for defense in believed.defenses):
        read = with_latents_read(question.task, question.setting, question.update, precision, max_seconds / 2)
        if read is not None:
            known = _Compared.of(replace(question, recompute=read[0]), read[1])
            # The examples of a batch may have been taken for each other.
            if known.within or len(believed.inputs) == 1:
                return known, None
    return compared, judged_by_draws(question.update.tensors, believed, hidden, precision)


def _entry_by_entry(compared: _Compared, defenses: Sequence[Defense]) -> _Compared:
    """With defenses that draw, but leave an interval of every entry."""
    question = compared.question
    undefended = _recompute(question.task, (), 1, question.update.kind)
    tolerance = compared.precision.tolerance
    nearest = within_intervals(defenses, question.update, undefended, question.setting, tolerance)
    if nearest is None:
        return compared
    names = ", ".join(type(defense).__name__ for defense in defenses)
    note = f"{compared.precision.statement}, of what {names} can make of the update with any draw"
    question = replace(question, recompute=nearest, scaled=False)
    return _Compared.of(question, replace(compared.precision, statement=note))


def _causes_entry_by_entry(compared: _Compared, defenses: Sequence[Defense], max_seconds: float) -> tuple[Cause, ...]:
    """Why an update is not what the defenses can make of the recomputed one."""
    question, tolerance = compared.question, compared.precision.tolerance
    before = _recompute(question.task, (), 1, question.update.kind)(question.setting)
    factor = factor_causes(defenses, question.update, before, len(question.seen), tolerance)
    if factor:
        return tuple(factor)
    found = search(question, compared.fit, tolerance, max_seconds)
    error = found.best.fit.scaled_error
    if error > tolerance:
        return (_unexplained(question, compared.computed, found),)
    return tuple(Cause(part.name, part.explanation, error, proven=True) for part in found.best.parts)


def _with_noise_and_order(
    compared: _Compared, defenses: Sequence[Defense], max_seconds: float
) -> tuple[_Compared, tuple[Cause, ...]]:
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
        causes = tuple(_causes(question, computed, fit, min(precision.tolerance, 0.5), max_seconds))
    causes = causes if order is None else (order, *causes)
    if not within and not any(cause.proven or cause.name in _DEFENSES for cause in causes):
        arithmetic = low_precision(setting, question.recompute, compared_tensors, error)
        if arithmetic is not None:
            precision, within, causes = arithmetic, True, ()
    return replace(compared, precision=precision, within=within), causes


def _with_noisy_defenses(compared: _Compared, believed: Believed) -> Judgement | None:
    """With defenses that draw before others, as noise before signs; None if none does, or that explains nothing."""
    client = compared.question.setting.client
    if client.kind != compared.question.update.kind:
        return None
    noisy = noisy_defenses(believed.defenses, compared.computed, client)
    if len(believed.defenses) < 2 or not noisy:
        return None
    judgement = judged_by_draws(compared.question.update.tensors, believed, noisy, compared.precision)
    return judgement if judgement is not None and judgement.within else None


def _told(compared: _Compared, naming: tuple[Cause, ...], causes: tuple[Cause, ...]) -> Consistency:
    """The verdict in words."""
    question, computed, fit, precision = compared.question, compared.computed, compared.fit, compared.precision
    update = question.update
    free_scale = question.setting.client.kind != update.kind
    if compared.within and "other inputs" not in precision.statement:
        precision = replace(precision, statement=precision.statement + _power(question, computed))
    if compared.within and free_scale:
        note = f"; the learning rate is not known, and {fit.scale:.4g} fits as that of one plain SGD step"
        precision = replace(precision, statement=precision.statement + note)
    layers = computed if not free_scale or fit.scale <= 0 else {name: fit.scale * g for name, g in computed.items()}
    return Consistency(
        compared.within and not naming,
        compared.error,
        fit.scale,
        precision.tolerance,
        precision.statement,
        per_layer_errors(update.tensors, layers),
        (*naming, *causes),
    )


def _causes(question: Question, computed: Tensors, fit: Fit, tolerance: float, max_seconds: float) -> list[Cause]:
    """Why the update differs: what is proven if anything is, else everything that is likely."""
    update, setting = question.update, question.setting
    sent = weights_sent(update.tensors, setting.state, computed, tolerance)
    if sent is not None:
        return [sent]
    if fit.scaled_error > tolerance:
        residual = list(residual_causes(update.tensors, computed, setting.state.parameters, tolerance))
        if any(cause.proven for cause in residual):
            return residual
    else:
        residual = []
    found = search(question, fit, tolerance, max_seconds)
    best = found.best
    if best.fit.scaled_error <= tolerance:
        error = best.fit.scaled_error
        causes = [Cause(part.name, part.explanation, error, proven=True) for part in best.parts]
        scale = scale_cause(best.fit, len(setting.variable), update, setting.client, tolerance)
        return causes + ([scale] if scale is not None else [])
    # Only now: with few tensors a wrong setting may leave a difference that looks like noise.
    if any(cause.name in _DEFENSES for cause in residual):
        return [cause for cause in residual if cause.name in _DEFENSES]
    return residual + _dropout_suspicion(question, computed, fit) + [_unexplained(question, computed, found)]


def _power(question: Question, computed: Tensors) -> str:
    """How far the same batch with its images turned around would be, which tells what agreement is worth."""
    compared = {name: computed[name] for name in question.update.tensors}
    error = other_inputs(question.setting, question.recompute, compared)
    return f"; other inputs with the same labels would differ by {error:.1g}"


def _dropout_suspicion(question: Question, computed: Tensors, fit: Fit) -> list[Cause]:
    """Random masks cannot be recomputed, but they make differences of a certain size."""
    layers = dropout_layers(question.task.model)
    masked = with_option(question.setting.client, "dropout", "fixed_mask")
    if not layers or masked is None:
        return []
    sizes: list[float] = []
    for seed in range(4):
        client = with_option(masked, "dropout_seed", seed) or masked
        other = question.recompute(replace(question.setting, client=client))
        sizes.append(compare(computed, other).relative_error)
    if max(sizes) > 0 and not 0.2 * min(sizes) <= fit.scaled_error <= 3 * max(sizes):
        return []
    zeros = sum(int(((tensor == 0) & (computed[name] != 0)).sum()) for name, tensor in question.update.tensors.items())
    why = (
        f"the layers {', '.join(layers)} draw random dropout masks; masks of other seeds change the update by "
        f"{min(sizes):.2g} to {max(sizes):.2g}, and {zeros} of its entries are zero that should not be"
    )
    advice = "switch dropout off on the client, or fix its masks"
    return [Cause("dropout", f"{why}: probably active on the client; {advice}", NAN, proven=False)]


def _unexplained(question: Question, computed: Tensors, found: Search) -> Cause:
    tensors = question.update.tensors
    fits = {name: compare({name: tensor}, computed).scaled_error for name, tensor in tensors.items()}
    nearest, farthest = min(fits, key=fits.__getitem__), max(fits, key=fits.__getitem__)
    best = found.best
    closest = f"{best.parts[0].name!r}" if best.parts else "none of them, with a free scale,"
    why = (
        f"nothing that was tried fits ({found.tried} recomputations{'' if found.complete else ', time ran out'}; "
        f"closest: {closest} at {best.fit.scaled_error:.2g}; {nearest} differs least, {farthest} most): other weights "
        "or buffers than the client's, another batch, or an augmentation; give the file of weights from that step"
    )
    return Cause("different_weights", why, best.fit.scaled_error, proven=False)
