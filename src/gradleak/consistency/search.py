"""Try one hypothesis after the other, then pairs of them, until one reproduces the update up to a scale."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from gradleak.consistency.comparison import Fit, Tensors, compare
from gradleak.consistency.hypotheses import Hypothesis, Setting, hypotheses
from gradleak.consistency.labels import label_hypotheses
from gradleak.consistency.local_training import local_hypotheses
from gradleak.consistency.precision import Recompute
from gradleak.tasks import Task
from gradleak.updates import Update


@dataclass(frozen=True)
class Explanation:
    """Hypotheses that were tried together, and how well they fit; no hypothesis is what was believed all along.

    Attributes:
        parts: at most two.
        fit: the comparison under them.
    """

    parts: tuple[Hypothesis, ...]
    fit: Fit


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        best: the explanation with the smallest error up to a scale.
        tried: number of recomputations.
        complete: whether time sufficed for all of them.
    """

    best: Explanation
    tried: int
    complete: bool


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be explained.

    Attributes:
        task: the public task.
        setting: what is believed.
        update: the observed tensors under the model's names.
        seen: class indices `[N]` that are believed.
        recompute: from a setting to the update that it would give.
        comparable: whether the update is the gradient of a mean loss, from which labels can be solved.
        scaled: whether an explanation may leave a factor open; not where what is recomputed depends on the update.
    """

    task: Task
    setting: Setting
    update: Update
    seen: Tensor
    recompute: Recompute
    comparable: bool
    scaled: bool = True

    def fit(self, computed: Tensors) -> Fit:
        """Compare the update with a recomputed one."""
        found = compare(self.update.tensors, computed)
        return found if self.scaled else Fit(found.relative_error, 1.0, found.relative_error)


def search(question: Question, believed: Fit, tolerance: float, max_seconds: float) -> Search:
    """The simplest explanation that fits, or else the one that comes closest.

    Args:
        question: what is to be explained.
        believed: the fit of what is believed.
        tolerance: error up to a scale at which an explanation is accepted.
        max_seconds: no new recomputation is begun after this time.

    Returns:
        The result; of explanations with one part and with two, those with one come first.
    """
    began = time.monotonic()
    best, tried = Explanation((), believed), 0
    if believed.scaled_error <= tolerance:
        return Search(best, tried, complete=True)
    for parts, setting in _candidates(question, believed.scale):
        if time.monotonic() - began > max_seconds:
            return Search(best, tried, complete=False)
        fit = question.fit(question.recompute(setting))
        tried += 1
        if fit.scaled_error < best.fit.scaled_error:
            best = Explanation(parts, fit)
        if fit.scaled_error <= tolerance:
            break
    return Search(best, tried, complete=True)


def _candidates(question: Question, scale: float) -> Iterator[tuple[tuple[Hypothesis, ...], Setting]]:
    """Single hypotheses, then pairs from different groups, then labels together with another hypothesis."""
    base = question.setting
    singles = [
        *hypotheses(question.task, base, question.update.tensors, question.update.kind),
        *local_hypotheses(base, scale),
    ]
    for hypothesis in singles:
        yield (hypothesis,), hypothesis.change(base)
    for hypothesis in _labels(question, base):
        yield (hypothesis,), hypothesis.change(base)
    together = [hypothesis for hypothesis in singles if not hypothesis.alone]
    for first in together:
        changed = first.change(base)
        for labels in _labels(question, changed):
            yield (first, labels), labels.change(changed)
    for position, first in enumerate(together):
        changed = first.change(base)
        for second in together[position + 1 :]:
            if second.group != first.group:
                yield (first, second), second.change(changed)


def _labels(question: Question, setting: Setting) -> Iterator[Hypothesis]:
    """Labels that fit if the scale is right, and if the loss was summed over the batch."""
    count = len(question.seen)
    for scale in (1, count) if count > 1 and question.comparable else (1,):
        gradient: Tensors = {}
        if question.comparable:
            gradient = {name: tensor / scale for name, tensor in question.update.tensors.items()}
        yield from label_hypotheses(question.task, setting, gradient, question.seen)
