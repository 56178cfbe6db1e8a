"""Running a training: look, keep, go on after a kill, and end in an orderly way."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from gradleak.audits.files import clear_words, remove_parts
from gradleak.audits.interrupts import Interrupts
from gradleak.audits.lock import exclusive
from gradleak.errors import BadInput, refuse
from gradleak.seeds import stage_generator
from gradleak.tasks import ImageSpace
from gradleak.threads import torch_threads
from gradleak.tokens import TokenSpace
from gradleak.training.checkpoints import (
    Checkpoint,
    DataFacts,
    ModelFacts,
    PrivacyFacts,
    QualityFacts,
    SpaceFacts,
    find_checkpoint,
    text_facts,
    unusable_tensors,
    write_checkpoint,
)
from gradleak.training.courses import Course, course_of
from gradleak.training.defending import built_in
from gradleak.training.places import RESUME, History, Place, keep_spec, read_place, write_place
from gradleak.training.preparing import Prepared, data_digest, new_defending, prepare, private_of
from gradleak.training.spec import TrainSpec
from gradleak.training.stages import Stage
from gradleak.training.steps import MOST_EVALUATED, examples_for, quality

Status = Literal["finished", "interrupted", "diverged"]


@dataclass(frozen=True)
class TrainProgress:
    """What a training tells while it runs.

    Attributes:
        unit: steps or rounds that are done.
        last: steps or rounds at which it ends.
        word: `step` or `round`.
        seconds: since the run began.
        left_seconds: estimate for the rest; None as long as there is nothing to estimate from.
        row: of the history, if the model was just looked at.
        note: something else that a person should know, otherwise empty.
    """

    unit: int
    last: int
    word: str
    seconds: float
    left_seconds: float | None
    row: dict[str, Any] | None = None
    note: str = ""


Notify = Callable[[TrainProgress], None]


@dataclass(frozen=True)
class TrainOutcome:
    """What came of a training.

    Attributes:
        status: `finished`, `interrupted` by Ctrl-C or SIGTERM, or `diverged`: loss or weights are no finite numbers.
        message: the same in a sentence.
        folder: where everything is.
        checkpoints: files of the stages that were reached, in order.
        row: the last line of the history; empty if there is none.
    """

    status: Status
    message: str
    folder: Path
    checkpoints: tuple[Path, ...]
    row: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def complete(self) -> bool:
        """Whether every checkpoint is there."""
        return self.status == "finished"


def run_training(spec: TrainSpec, folder: Path, comment: str = "", notify: Notify | None = None) -> TrainOutcome:
    """Train, or go on where the folder ends.

    Args:
        spec: checked.
        folder: for checkpoints, `history.jsonl` and `spec.yaml`; made if there is none.
        comment: the first line of the file with the spec.
        notify: told what happens.

    Returns:
        What came of it; the same call goes on after an interrupt, and ends with the same bits.

    Raises:
        BadInput: when data, model or folder cannot be used, or the folder was begun with another spec or other data.
    """
    prepared = prepare(spec)
    with clear_words(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder), torch_threads(spec.threads):
        remove_parts(folder)
        keep_spec(folder, spec, comment)
        run = _Run(spec, prepared, folder, notify)
        interrupts = Interrupts()
        with interrupts.caught():
            return run.go(interrupts)


class _Run:
    """The state of one run."""

    def __init__(self, spec: TrainSpec, prepared: Prepared, folder: Path, notify: Notify | None) -> None:
        self.spec, self.prepared, self.folder, self.notify = spec, prepared, folder, notify
        self.digest = data_digest(prepared.train)
        self.stages = {stage.unit: stage for stage in prepared.stages}
        self.last = max(self.stages)
        self.history = History(folder)
        self.private = private_of(spec, prepared)
        self.began = self.saved = time.monotonic()

    def go(self, interrupts: Interrupts) -> TrainOutcome:
        """Train what is left."""
        missing = [stage for stage in self.prepared.stages if not self._is_there(stage)]
        if not missing:
            return self._outcome("finished", "Everything was trained before.")
        train, test = self.prepared.train, self.prepared.test
        defending = new_defending(self.spec, self.prepared)
        model = defending.task.model
        examples = examples_for(model, train.inputs, train.targets, self.prepared.space)
        self.test = examples_for(model, test.inputs, test.targets, self.prepared.space)
        drawn = torch.randperm(len(train), generator=stage_generator(self.spec.seed, "training/evaluated"))
        self.train = examples.at(drawn[:MOST_EVALUATED])
        course = course_of(self.spec, examples, defending, self.private)
        self._go_on(course, missing)
        self.first = course.unit
        try:
            diverged = self._units(course, interrupts)
        except KeyboardInterrupt:
            with interrupts.held_back():
                self._save(course)
            return self._outcome("interrupted", f"Stopped after {course.word} {course.unit} of {course.total}.")
        if diverged:
            return self._outcome("diverged", diverged)
        (self.folder / RESUME).unlink(missing_ok=True)
        return self._outcome("finished", f"Trained {course.unit} of {course.total} {course.word}s.")

    def _go_on(self, course: Course, missing: list[Stage]) -> None:
        """Take up the place where the last run ended, unless a stage before it is missing.

        Raises:
            BadInput: when the place is of another model or other data.
        """
        place = read_place(self.folder)
        if place is None or any(stage.unit < place.unit for stage in missing):
            return
        self._refuse_other_data(place.data, RESUME)
        try:
            course.go_on(place.unit, place.tensors)
        except RuntimeError as error:  # torch's word for tensors of another model
            problem = " ".join(str(error).split())[:200]
            raise BadInput(
                [
                    f"{self.folder / RESUME}: expected the state of this model, got: {problem}; undo the change of its "
                    "code, or choose another folder"
                ]
            ) from None
        self._tell(course, note=f"Going on after {course.word} {course.unit} of {course.total}.")

    def _units(self, course: Course, interrupts: Interrupts) -> str:
        """Unit by unit; what is due after one is done before the next, so that a saved place owes nothing.

        Returns:
            When and how the training diverged; empty if it came to its end.
        """
        while True:
            diverged = ""
            if course.unit in self.stages or course.unit % course.per_report == 0:
                diverged = self._look(course)
            elif time.monotonic() - self.saved >= self.spec.save_every:
                self._save(course)
            if diverged or course.unit >= self.last:
                return diverged
            loss = course.advance(interrupts)
            if not math.isfinite(loss):
                return _diverged(course, f"the loss is {loss}")
            self._tell(course)

    def _look(self, course: Course) -> str:
        """Measure, note and keep, as far as that was not done before.

        Returns:
            How the training diverged; empty if it did not.
        """
        stage = self.stages.get(course.unit)
        if course.unit in self.history.rows and (stage is None or self._is_there(stage)):
            return ""
        unusable = unusable_tensors(course.model)
        train, test = quality(course.model, self.train), quality(course.model, self.test)
        if unusable or not math.isfinite(train.loss + test.loss):
            return _diverged(course, f"{unusable[0]!r} is not finite" if unusable else "the loss is not finite")
        row: dict[str, Any] = {
            "unit": course.unit,
            "word": course.word,
            "epochs": round(course.epochs(), 6),
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
        }
        privacy = self._privacy(course)
        if privacy is not None:
            row |= {"epsilon": privacy.epsilon, "delta": privacy.delta}
        if stage is not None:
            qualities = QualityFacts(**asdict(train)), QualityFacts(**asdict(test))
            write_checkpoint(self._path(stage), course.model, self._checkpoint(course, stage, *qualities))
        if course.unit not in self.history.rows:
            self.history.append(row)
        if stage is not None or time.monotonic() - self.saved >= self.spec.save_every:
            self._save(course)
        self._tell(course, row=row)
        return ""

    def _checkpoint(self, course: Course, stage: Stage, train: QualityFacts, test: QualityFacts) -> Checkpoint:
        prepared, model = self.prepared, self.spec.model
        space = prepared.space
        facts: dict[str, Any] = {}
        if isinstance(space, ImageSpace):
            facts = {"mean": space.mean, "std": space.std}
        elif isinstance(space, TokenSpace):
            facts = {"texts": text_facts(space, prepared.train.objective)}
        return Checkpoint(
            model=ModelFacts(name=model.name, settings=model.settings, defenses=built_in(self.spec.defense)),
            data=DataFacts(
                name=prepared.train.name,
                examples=len(prepared.train),
                test=prepared.test.name,
                test_examples=len(prepared.test),
                held_out=self.spec.test is None,
                digest=self.digest,
            ),
            space=SpaceFacts(shape=space.shape, **facts),
            num_classes=prepared.train.num_classes,
            fraction=stage.fraction,
            stage=stage.words,
            units=course.unit,
            of_units=course.total,
            unit="step" if course.word == "step" else "round",
            epochs=course.epochs(),
            train=train,
            test=test,
            # Where to go on from is a matter of the run, and would make equal trainings differ.
            spec={key: value for key, value in self.spec.to_plain().items() if key != "save_every"},
            privacy=self._privacy(course),
        )

    def _privacy(self, course: Course) -> PrivacyFacts | None:
        """What was spent so far, for a differentially private training."""
        if self.private is None:
            return None
        epsilon = self.private.epsilon(course.unit)
        return PrivacyFacts(
            epsilon=epsilon if math.isfinite(epsilon) else None,
            delta=self.private.delta,
            noise_multiplier=self.private.noise_multiplier,
            clip=self.private.clip,
            sampling_rate=self.private.sampling_rate,
        )

    def _is_there(self, stage: Stage) -> bool:
        """Whether the checkpoint of a stage was written before.

        Returns:
            Whether a checkpoint is there.

        Raises:
            BadInput: when it is of other data.
        """
        path = self._path(stage)
        if not path.exists():
            return False
        found = find_checkpoint(path)
        if found is not None:
            self._refuse_other_data(found.data.digest, path.name)
        return found is not None

    def _refuse_other_data(self, digest: str, file: str) -> None:
        problem = (
            f"{self.folder}: expected the training data of {file} (digest {digest}), got others under the same name "
            f"({self.digest}); restore them, or choose another folder"
        )
        refuse([problem] if digest != self.digest else [])

    def _path(self, stage: Stage) -> Path:
        return self.folder / stage.file

    def _save(self, course: Course) -> None:
        write_place(self.folder, Place(course.unit, self.digest, course.tensors()))
        self.saved = time.monotonic()

    def _tell(self, course: Course, *, row: dict[str, Any] | None = None, note: str = "") -> None:
        if self.notify is None:
            return
        seconds = time.monotonic() - self.began
        done = course.unit - getattr(self, "first", course.unit)
        left = seconds / done * (self.last - course.unit) if done else None
        self.notify(TrainProgress(course.unit, self.last, course.word, seconds, left, row, note))

    def _outcome(self, status: Status, message: str) -> TrainOutcome:
        reached = tuple(path for stage in self.prepared.stages if (path := self._path(stage)).exists())
        row = self.history.rows[max(self.history.rows)] if self.history.rows else {}
        return TrainOutcome(status, message, self.folder, reached, row)


def _diverged(course: Course, how: str) -> str:
    return (
        f"Diverged at {course.word} {course.unit} of {course.total}: {how}. Checkpoints from before are kept; train "
        "with a smaller optimizer.lr in another folder."
    )
