"""The verdict on an update whose private batch is known, and the causes of a difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from gradleak.clients import ChecksBatch, Client, Gradient
from gradleak.clients.settings import sent_state
from gradleak.consistency.comparison import (
    Cause,
    Tensors,
    per_layer_errors,
)
from gradleak.consistency.hypotheses import Setting
from gradleak.consistency.judging import Compared, judged
from gradleak.consistency.naming import match_names
from gradleak.consistency.precision import (
    other_inputs,
)
from gradleak.consistency.private_draws import Believed
from gradleak.consistency.recomputing import step_of
from gradleak.consistency.search import Question
from gradleak.defenses import Defense
from gradleak.defenses.applying import changed_task, defense_problems
from gradleak.errors import refuse
from gradleak.evidence import Evidence
from gradleak.tasks import Task
from gradleak.updates import Update, update_problems

NAN = float("nan")


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
    recompute = step_of(task, defenses, sign, client.kind)
    computed = recompute(setting)
    naming = match_names(update.tensors, computed, state)
    if update.is_empty or not naming.tensors:
        return _nothing_to_compare(update, naming.causes)
    update = replace(update, tensors=naming.tensors)
    seen = targets if targets.dim() == 1 else targets.argmax(dim=1)
    comparable = client.kind == update.kind == "gradient"
    question = Question(task, setting, update, seen.cpu(), recompute, comparable)
    compared, causes = judged(question, Believed(task, inputs, targets, client, defenses), max_seconds)
    return _told(compared, naming.causes, causes)


def _nothing_to_compare(update: Update, causes: tuple[Cause, ...]) -> Consistency:
    if update.is_empty:
        why = "every entry of the update is zero: it says nothing about any batch; capture it after the backward pass"
        causes = (Cause("empty", why, NAN, proven=True), *causes)
    return Consistency(False, NAN, NAN, NAN, "nothing could be compared", {}, causes)


def _told(compared: Compared, naming: tuple[Cause, ...], causes: tuple[Cause, ...]) -> Consistency:
    """The verdict in words."""
    question, computed, fit, precision = compared.question, compared.computed, compared.fit, compared.precision
    update = question.update
    free_scale = question.setting.client.kind != update.kind
    if compared.within and "other inputs" not in precision.statement:
        precision = replace(precision, statement=precision.statement + power(question, computed))
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


def power(question: Question, computed: Tensors) -> str:
    """How far the same batch with its images turned around would be, which tells what agreement is worth."""
    compared = {name: computed[name] for name in question.update.tensors}
    error = other_inputs(question.setting, question.recompute, compared)
    return f"; other inputs with the same labels would differ by {error:.1g}"
