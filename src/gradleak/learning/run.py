"""Running the training of an inverter: look, keep, go on after a kill, and end in an orderly way."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import save

from gradleak.audits.files import clear_words, remove_parts, write_whole
from gradleak.audits.interrupts import Interrupts
from gradleak.audits.lock import exclusive
from gradleak.clients import Client
from gradleak.defenses import Defense
from gradleak.errors import BadInput, refuse
from gradleak.inverters import (
    Inverter,
    InverterFacts,
    QualityFacts,
    inverter_bytes,
    read_inverter,
)
from gradleak.learning.course import Course
from gradleak.learning.pairs import CHUNK, Pairs, choose_features, draw_seed, with_mirrored
from gradleak.learning.preparing import data_problems, facts_of, refuse_others
from gradleak.learning.quality import MOST_EXAMPLES, quality
from gradleak.learning.settings import LearnSettings
from gradleak.learning.simulating import Simulator, simulator
from gradleak.seeds import stage_generator
from gradleak.tasks import Task
from gradleak.tensorfiles import read_safetensors
from gradleak.threads import torch_threads
from gradleak.zoo.data import Dataset

INVERTER, RESUME, HISTORY = "inverter.safetensors", "resume.safetensors", "history.jsonl"
_HELD_OUT = 0.1


@dataclass(frozen=True)
class LearnProgress:
    """What a training tells while it runs.

    Attributes:
        step: steps that are done.
        total: steps at the end.
        done: share of the training that is done, by steps or by time.
        left_seconds: estimate for the rest; None as long as there is nothing to estimate from.
        loss: mean squared error of the last batch.
        quality: on held-out examples, if it was just measured.
        note: something else that a person should know, otherwise empty.
    """

    step: int
    total: int
    done: float
    left_seconds: float | None = None
    loss: float = float("nan")
    quality: QualityFacts | None = None
    note: str = ""


Notify = Callable[[LearnProgress], None]


@dataclass(frozen=True)
class LearnOutcome:
    """What came of a training.

    Attributes:
        status: `finished`, `interrupted` by Ctrl-C or SIGTERM, or `diverged`.
        message: the same in a sentence.
        path: the inverter's file; it is there if the training is finished.
        facts: what it was trained for, and how good it is.
    """

    status: Literal["finished", "interrupted", "diverged"]
    message: str
    path: Path
    facts: InverterFacts


def learn(
    task: Task,
    data: Dataset,
    out: str | Path,
    *,
    client: Client,
    defenses: Sequence[Defense] = (),
    test: Dataset | None = None,
    settings: LearnSettings | None = None,
    model: str = "",
    notify: Notify | None = None,
) -> LearnOutcome:
    """Train an inverter on public data, or go on where the folder ends.

    Args:
        task: the public task, with the values that the model has when the client makes its step.
        data: public examples.
        out: folder for the inverter, `history.jsonl` and the place to go on from.
        client: as it makes updates of single examples.
        defenses: in order.
        test: examples to measure with; a tenth of the data, at most 200, is held out if not given.
        settings: of the training.
        model: what the model is called, for people.
        notify: told what happens.

    Returns:
        What came of it; the same call goes on after an interrupt and ends with the same bits, unless time is limited.

    Raises:
        BadInput: when data, client, defenses or folder cannot be used, or the folder was begun for something else.
    """
    settings, folder = settings or LearnSettings(), Path(out)
    refuse(data_problems(task, data, test, settings))
    if test is None:
        count = min(MOST_EXAMPLES, max(1, round(_HELD_OUT * len(data))))
        test, data = data.split(count, settings.seed)
    made = simulator(task, client, defenses, data.inputs, data.targets)
    facts = facts_of(made, data, test, settings, model or type(task.model).__name__)
    with clear_words(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder), torch_threads(settings.threads):
        remove_parts(folder)
        finished = _finished(folder, facts)
        if finished is not None:
            return LearnOutcome("finished", "Everything was trained before.", folder / INVERTER, finished)
        interrupts = Interrupts()
        with interrupts.caught():
            try:
                run = _Run(folder, facts, made, data, test, settings, notify)
            except KeyboardInterrupt:
                return LearnOutcome("interrupted", "Stopped before the first step.", folder / INVERTER, facts)
            return run.go(interrupts)


def _finished(folder: Path, facts: InverterFacts) -> InverterFacts | None:
    """What the finished inverter in the folder says; None if there is none.

    Returns:
        Its facts.

    Raises:
        BadInput: when it was trained for something else.
    """
    path = folder / INVERTER
    if not path.exists():
        return None
    _, found = read_inverter(path)
    refuse_others(folder, found, facts)
    return found


class _Run:
    """The state of one run."""

    def __init__(
        self,
        folder: Path,
        facts: InverterFacts,
        made: Simulator,
        data: Dataset,
        test: Dataset,
        settings: LearnSettings,
        notify: Notify | None,
    ) -> None:
        self.folder, self.facts, self.settings, self.notify = folder, facts, settings, notify
        inputs, targets = with_mirrored(data.inputs, data.targets) if settings.flip else (data.inputs, data.targets)
        self.mean = inputs.mean(dim=0)
        features = choose_features(made, data.inputs, data.targets, settings.features, settings.seed)
        # In the order drawn by a seed, so that a sorted test set is not measured by one class.
        chosen = test.subset(test.indices(min(MOST_EXAMPLES, len(test)), seed=settings.seed))
        self.test = chosen
        seed = draw_seed(settings.seed, "held out", 0)
        starts = range(0, len(chosen), CHUNK)
        self.test_features = [
            features.of(made.updates(chosen.inputs[at : at + CHUNK], chosen.targets[at : at + CHUNK], seed + at))
            for at in starts
        ][0]
        self.pairs = Pairs(made, inputs, targets, features, settings.seed)
        generator = stage_generator(settings.seed, "learning/weights")
        self.untrained = Inverter.new(features, settings.hidden, self.mean, facts.bounds, facts.num_classes, generator)

    def go(self, interrupts: Interrupts) -> LearnOutcome:
        """Train what is left."""
        course = Course(self.untrained, self.pairs, self.settings)
        self._go_on(course)
        _forget_after(self.folder / HISTORY, course.step)
        self.saved = self.began = time.monotonic()
        self.done_before = course.done
        try:
            diverged = self._steps(course, interrupts)
        except KeyboardInterrupt:
            with interrupts.held_back():
                self._save(course)
            return self._outcome("interrupted", f"Stopped after step {course.step} of {course.total}.", course)
        if diverged:
            return self._outcome("diverged", diverged, course)
        facts = self._look(course)
        write_whole(self.folder / INVERTER, inverter_bytes(course.inverter(), facts))
        (self.folder / RESUME).unlink(missing_ok=True)
        limited = "" if course.step >= course.total else ", when its minutes were over"
        message = f"Trained {course.step} of {course.total} steps{limited}."
        return LearnOutcome("finished", message, self.folder / INVERTER, facts)

    def _steps(self, course: Course, interrupts: Interrupts) -> str:
        """Step by step.

        Returns:
            How the training diverged; empty if it did not.
        """
        while course.done < 1:
            with interrupts.held_back():  # a step is whole or not done, so that the place is one of the course
                loss = course.advance()
            if not math.isfinite(loss):
                return f"Diverged at step {course.step}: the loss is {loss}. Train with a smaller lr in another folder."
            if course.step % course.per_epoch == 0 and course.done < 1:
                self._tell(course, loss, self._look(course).quality)
            else:
                self._tell(course, loss)
            if time.monotonic() - self.saved >= self.settings.save_every:
                self._save(course)
        return ""

    def _look(self, course: Course) -> InverterFacts:
        """Measure and note."""
        measured = quality(course.inverter(), self.test_features, self.test.inputs, self.test.targets, self.mean)
        row = {"step": course.step, "seconds": round(course.elapsed, 3), **measured.model_dump(mode="json")}
        path = self.folder / HISTORY
        with clear_words(path), path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
        return self.facts.model_copy(update={"steps": course.step, "quality": measured})

    def _save(self, course: Course) -> None:
        facts = self.facts.model_copy(update={"steps": course.step})
        metadata = {"gradleak": facts.model_dump_json(), "seconds": repr(course.elapsed)}
        write_whole(self.folder / RESUME, save(course.tensors(), metadata=metadata))
        self.saved = time.monotonic()

    def _go_on(self, course: Course) -> None:
        """Take up the place where the last run ended.

        Raises:
            BadInput: when it is of another training, or cannot be read.
        """
        path = self.folder / RESUME
        if not path.exists():
            return
        tensors, metadata = read_safetensors(path)
        try:
            found = InverterFacts.model_validate_json(metadata["gradleak"])
            seconds = float(metadata["seconds"])
        except (KeyError, ValueError):
            raise BadInput(
                [f"{path}: expected what gradleak learn wrote, got other metadata; delete it to begin from the start"]
            ) from None
        refuse_others(self.folder, found, self.facts)
        try:
            course.go_on(found.steps, seconds, tensors)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadInput([f"{path}: expected the state of this training, got {reason}; delete it"]) from None
        if self.notify is not None:
            note = f"Going on after step {course.step} of {course.total}."
            self.notify(LearnProgress(course.step, course.total, course.done, note=note))

    def _tell(self, course: Course, loss: float, measured: QualityFacts | None = None) -> None:
        if self.notify is None:
            return
        done = course.done - self.done_before
        left = (time.monotonic() - self.began) / done * (1 - course.done) if done > 0 else None
        self.notify(LearnProgress(course.step, course.total, course.done, left, loss, measured))

    def _outcome(self, status: Literal["interrupted", "diverged"], message: str, course: Course) -> LearnOutcome:
        facts = self.facts.model_copy(update={"steps": course.step})
        return LearnOutcome(status, message, self.folder / INVERTER, facts)


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of looks that will be taken again, and one that a kill cut off."""
    if not path.exists():
        return
    with clear_words(path):
        lines = path.read_bytes().splitlines(keepends=True)
    kept = b"".join(line for line in lines if _step_of(line) <= step)
    write_whole(path, kept)


def _step_of(line: bytes) -> float:
    """The step of a line of the history; infinite if it is not whole."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
