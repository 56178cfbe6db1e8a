"""Why an update differs from the recomputed one."""

from collections.abc import Sequence
from dataclasses import replace

from gradleak.clients.stateless import dropout_layers
from gradleak.consistency.comparison import (
    Cause,
    Fit,
    Tensors,
    compare,
)
from gradleak.consistency.hypotheses import with_option
from gradleak.consistency.intervals import factor_causes
from gradleak.consistency.residual import residual_causes
from gradleak.consistency.scales import scale_cause, weights_sent
from gradleak.consistency.search import Question, Search, search
from gradleak.defenses import Defense

NAN = float("nan")
# Causes that show in the residual and that no other batch or setting would explain.
SHOWN_DEFENSES = frozenset({"noise", "signs"})


def causes_of(question: Question, computed: Tensors, fit: Fit, tolerance: float, max_seconds: float) -> list[Cause]:
    """Why an update differs: what is proven if anything is, else everything that is likely.

    Args:
        question: what is to be explained.
        computed: what was recomputed.
        fit: of that.
        tolerance: relative error that counts as equal.
        max_seconds: time for trying causes.

    Returns:
        Causes, never none unless a factor is a learning rate that nobody knows.
    """
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
    if any(cause.name in SHOWN_DEFENSES for cause in residual):
        return [cause for cause in residual if cause.name in SHOWN_DEFENSES]
    return residual + _dropout_suspicion(question, computed, fit) + [_unexplained(question, computed, found)]


def causes_entry_by_entry(
    question: Question, fit: Fit, defenses: Sequence[Defense], before: Tensors, tolerance: float, max_seconds: float
) -> tuple[Cause, ...]:
    """Why an update is not what the defenses can make of the recomputed one.

    Args:
        question: what is to be explained; it recomputes what the defenses allow.
        fit: of what is believed.
        defenses: that are declared, in order.
        before: the recomputed update before them.
        tolerance: relative error that counts as equal.
        max_seconds: time for trying causes.

    Returns:
        Proven causes, or one that is not.
    """
    factor = factor_causes(defenses, question.update, before, len(question.seen), tolerance)
    if factor:
        return tuple(factor)
    found = search(question, fit, tolerance, max_seconds)
    error = found.best.fit.scaled_error
    if error > tolerance:
        return (_unexplained(question, question.recompute(question.setting), found),)
    return tuple(Cause(part.name, part.explanation, error, proven=True) for part in found.best.parts)


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
