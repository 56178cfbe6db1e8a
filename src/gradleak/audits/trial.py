"""One trial: capture, attack, score, baselines, record."""

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradleak.attacks import Attack, Progress
from gradleak.attacks.protocol import not_applicable
from gradleak.audits.costs import training_step_seconds
from gradleak.audits.environment import environment
from gradleak.audits.layer_course import LayerCourse, layer_course
from gradleak.audits.records import Columns, Course, TrialRecord, TrialStatus, plain, record_id
from gradleak.audits.texts import TrialTexts, moments, texts_of
from gradleak.captures import Truth, capture
from gradleak.clients import Client, Gradient
from gradleak.defenses import Defense
from gradleak.reconstructions import History, Reconstruction
from gradleak.scoring import Scores, baseline_scores, peak_signal_noise_ratio, score
from gradleak.scoring.pairing import in_true_order
from gradleak.scoring.scores import clamp
from gradleak.scoring.texts import in_true_order_of_texts
from gradleak.tasks import Task
from gradleak.threat import Observation, ThreatModel
from gradleak.tokens import TokenSpace

POINTS = 150
"""Largest number of points of a course that a record keeps."""


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything that one trial needs: objects, and plain data for those that do not describe themselves.

    Attributes:
        task: the public task.
        model: plain data from which the model can be built again.
        data: plain data that name the data set; `name` appears in tables.
        examples: positions of the private examples in the data set, one for each input.
        inputs: private inputs `[N, ...]`.
        targets: class indices `[N]` or probabilities `[N, C]`.
        reference: public data `[M, ...]` of the same kind, for the baselines.
        attack: what attacks.
        attack_settings: plain data that name the attack and its settings; `name` appears in tables.
        client: how the update is made.
        defenses: what is done to it, in order.
        threat: what the attacker is given.
        seed: of client, defenses, attack and baselines.
        planned: the whole as plain data, if it was built from them; described from the parts above if not given.
    """

    task: Task
    model: Mapping[str, object]
    data: Mapping[str, object]
    examples: Sequence[int]
    inputs: Tensor
    targets: Tensor
    reference: Tensor
    attack: Attack
    attack_settings: Mapping[str, object]
    client: Client = Gradient()
    defenses: Sequence[Defense] = ()
    threat: ThreatModel = ThreatModel()
    seed: int = 0
    planned: Mapping[str, Any] | None = None

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The trial as plain data.

        Raises:
            BadInput: when a description holds something that JSON cannot.
        """
        if self.planned is not None:
            return dict(self.planned)
        settings = {
            "model": self.model,
            "space": self.task.space,
            "num_classes": self.task.num_classes,
            "data": self.data,
            "examples": list(self.examples),
            "targets": self.targets.tolist(),
            "client": self.client,
            "defenses": list(self.defenses),
            "threat": self.threat,
            "attack": self.attack_settings,
            "seed": self.seed,
        }
        return plain(settings, "spec")

    @property
    def id(self) -> str:
        """The content hash of the spec."""
        return record_id(self.spec)


@dataclass(frozen=True, eq=False)
class TrialImages:
    """What a trial leaves to look at, float32 on the CPU, in true order; NaN where there is nothing.

    Attributes:
        truth: private inputs `[N, ...]`.
        reconstruction: their partners `[N, ...]`.
        snapshots: best candidates at a few moments `[S, N, ...]`, in the pairing of the final result.
    """

    truth: Tensor
    reconstruction: Tensor
    snapshots: Tensor


def run_trial(
    trial: Trial, *, command: str | None = None, progress: Progress | None = None
) -> tuple[TrialRecord, TrialImages | TrialTexts]:
    """Attack, score, and compare with what chance would have scored.

    An attack that raises an exception has status `error`, its traceback, and scores that are all NaN.

    Args:
        trial: what to do.
        command: the command line that repeats it, for the record.
        progress: handed to the attack.

    Returns:
        The record, and the images, or the texts where inputs are tokens.

    Raises:
        BadInput: when batch, client, defenses or reference do not fit the task; nothing was attacked then.
    """
    observation, truth = capture(
        trial.task,
        trial.inputs,
        trial.targets,
        client=trial.client,
        defenses=trial.defenses,
        threat=trial.threat,
        seed=trial.seed,
    )
    baselines = baseline_scores(truth, trial.reference, seed=trial.seed)
    attempt = _attempt(trial, observation, truth, progress)
    result, scores = attempt.reconstruction, attempt.scores
    snapshots = _snapshots(result, scores, truth)
    record = TrialRecord(
        id=trial.id,
        status=attempt.status,
        spec=trial.spec,
        threat=trial.threat.describe(),
        scores=_columns(scores),
        targets_given=scores.targets_given,
        baselines={name: _columns(baseline) for name, baseline in baselines.items()},
        objective=result.objective,
        evaluations=result.evaluations,
        seconds=result.seconds,
        step_seconds=training_step_seconds(trial.task, trial.inputs, trial.targets),
        message=_text(result.message),
        traceback=_text(attempt.traceback),
        course=_course(result.history, snapshots, truth, layer_course(observation, result)),
        environment=environment(trial.task, command=command),
    )
    if isinstance(truth.space, TokenSpace):
        return record, _texts(result, scores, truth, truth.space, snapshots)
    reconstruction = in_true_order(result.inputs, scores.paired_with)
    return record, TrialImages(truth.inputs.cpu().float(), reconstruction.float(), snapshots.float())


@dataclass(frozen=True, eq=False)
class _Attempt:
    """What came of the attack."""

    reconstruction: Reconstruction
    scores: Scores
    status: TrialStatus
    traceback: str = ""


def _attempt(trial: Trial, observation: Observation, truth: Truth, progress: Progress | None) -> _Attempt:
    began = time.perf_counter()
    try:
        reconstruction = trial.attack(observation, seed=trial.seed, progress=progress)
        # An answer that cannot be scored (a wrong shape, say) is the attack's fault as much as an exception is.
        return _Attempt(reconstruction, score(reconstruction, truth), reconstruction.status)
    # An attack may be foreign code. Whatever it raises, the other trials go on, and this one is never a pass.
    except Exception as error:  # noqa: BLE001
        nothing = not_applicable(trial.attack.name, observation, f"{type(error).__name__}: {error}")
        nothing = replace(nothing, seconds=time.perf_counter() - began)
        return _Attempt(nothing, score(nothing, truth), "error", traceback.format_exc())


def _snapshots(result: Reconstruction, scores: Scores, truth: Truth) -> Tensor:
    """Snapshots `[S, N, ...]` in the pairing of the final result, so that a row follows one example."""
    in_order = in_true_order_of_texts if isinstance(truth.space, TokenSpace) else in_true_order
    ordered = [in_order(snapshot.inputs, scores.paired_with) for snapshot in result.history.snapshots]
    return torch.stack(ordered) if ordered else torch.empty((0, *truth.inputs.shape), dtype=torch.float64)


def _texts(result: Reconstruction, scores: Scores, truth: Truth, space: TokenSpace, snapshots: Tensor) -> TrialTexts:
    """What a trial on tokens leaves to read."""
    kept = moments(len(snapshots))
    return TrialTexts(
        truth=texts_of(truth.inputs, space),
        recovered=texts_of(in_true_order_of_texts(result.inputs, scores.paired_with), space),
        snapshots=tuple(texts_of(snapshots[position], space) for position in kept),
        evaluations=tuple(result.history.snapshots[position].evaluations for position in kept),
    )


def _course(history: History, snapshots: Tensor, truth: Truth, layers: LayerCourse) -> Course:
    # An attack may be foreign code, whose account of itself is no reason to lose its result.
    kept = thinned(history.objective[: len(history.evaluations)], POINTS)
    bounds = truth.space.bounds
    psnr: tuple[tuple[float, ...], ...] = ()
    accuracy: tuple[tuple[float, ...], ...] = ()
    if isinstance(truth.space, TokenSpace):
        accuracy = tuple(_token_accuracy(moment, truth.inputs, truth.space) for moment in snapshots)
    elif bounds is not None:
        psnr = tuple(
            tuple(
                peak_signal_noise_ratio(clamp(moment, bounds), truth.inputs, data_range=bounds[1] - bounds[0]).tolist()
            )
            for moment in snapshots
        )
    return Course(
        evaluations=tuple(history.evaluations[position] for position in kept),
        objective=tuple(history.objective[position] for position in kept),
        snapshot_evaluations=tuple(snapshot.evaluations for snapshot in history.snapshots),
        psnr=psnr,
        token_accuracy=accuracy,
        layers=layers.names,
        layer_distances=layers.distances,
        layer_evaluations=layers.evaluations,
    )


def _token_accuracy(tokens: Tensor, true: Tensor, space: TokenSpace) -> tuple[float, ...]:
    """Share of right tokens of each text `[N, T]`, padding aside: the column of the scores, without its company."""
    kept = torch.ones_like(true, dtype=torch.bool) if space.padding is None else true != space.padding
    right = ((tokens.to(true.device) == true) & kept).sum(dim=1).double() / kept.sum(dim=1)
    return tuple(right.tolist())


def thinned(values: Sequence[float], limit: int) -> list[int]:
    """Positions of at most `limit` values: the first, the last, the least, and between them ever wider steps.

    Args:
        values: a course, NaN allowed.
        limit: at least 3.

    Returns:
        Positions in ascending order.
    """
    count = len(values)
    if count <= limit:
        return list(range(count))
    least = min(range(count), key=lambda position: (values[position] != values[position], values[position]))
    steps = torch.logspace(0, torch.tensor(float(count)).log10().item(), limit - 3, dtype=torch.float64)
    return sorted({0, count - 1, least, *(min(count, round(step)) - 1 for step in steps.tolist())})


def _columns(scores: Scores) -> Columns:
    return {name: tuple(column) for name, column in scores.to_dict().items()}


def _text(text: str) -> str:
    """Text that every encoder accepts: an exception may quote bytes that are no Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")
