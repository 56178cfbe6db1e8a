"""How a model is trained: by a single worker, or by the clients of a federation."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from gradleak.audits.interrupts import Interrupts
from gradleak.training.backward import backward_of
from gradleak.training.defending import Defending
from gradleak.training.federated import Federated
from gradleak.training.memories import Memories
from gradleak.training.places import MODEL, MOMENTUM, load_state
from gradleak.training.private import PrivateSettings, poisson_batch
from gradleak.training.spec import TrainSpec
from gradleak.training.steps import Examples, batches, batches_of, learning_rate, sgd, step


class Course(Protocol):
    """A training that goes on unit by unit, and can stop and go on between any two.

    Attributes:
        model: as it is after `unit` units.
        word: what a unit is.
        total: units of the whole training.
        per_report: units between two looks at train and test accuracy.
        unit: how many are done.
    """

    model: nn.Module
    word: str
    total: int
    per_report: int
    unit: int

    def advance(self, interrupts: Interrupts) -> float:
        """Do one unit; its loss. An interrupt leaves the model as it was, or the unit done."""
        ...

    def epochs(self) -> float:
        """How often the training data have been seen on average."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all that the next units depend on."""
        ...

    def go_on(self, unit: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue as if `unit` units had been done that left these tensors."""
        ...


def course_of(
    spec: TrainSpec, examples: Examples, defending: Defending, private: PrivateSettings | None = None
) -> Course:
    """The training that a spec describes, at its start.

    Args:
        spec: checked.
        examples: that are trained on.
        defending: the defenses, bound to the task whose model is trained.
        private: noise and clipping of a differentially private training.

    Returns:
        The course.
    """
    if spec.federated is None:
        return SingleWorker(spec, defending.task.model, examples, defending, private)
    return Federated(spec, spec.federated, defending.task.model, examples, defending)


class SingleWorker:
    """SGD on shuffled epochs, or on Poisson-sampled batches with differential privacy; a unit is a step."""

    word = "step"

    def __init__(
        self,
        spec: TrainSpec,
        model: nn.Module,
        examples: Examples,
        defending: Defending | None = None,
        private: PrivateSettings | None = None,
    ) -> None:
        self.spec, self.model, self.examples = spec, model.train(), examples
        self.per_report = batches_of(len(examples.targets), spec.batch_size)
        self.total = (spec.epochs or 1) * self.per_report
        self.unit = 0
        self._sgd = sgd(model, spec.optimizer)
        self._epoch, self._order = -1, list[Tensor]()
        self._private, self._memories = private, Memories()
        self._backward = backward_of(spec, defending, private, self._memories)

    def advance(self, interrupts: Interrupts) -> float:
        """One step; its loss before the step."""
        lr = learning_rate(self.spec.optimizer, self.unit / self.total)
        batch = self.examples.at(self._positions())
        with interrupts.held_back():
            stage, seed = f"training/step/{self.unit}", self.spec.seed
            loss = step(self.model, self._sgd, lr, batch, self.spec.augmentation, seed, stage, self._backward)
            self.unit += 1
        return loss

    def _positions(self) -> Tensor:
        """Of the examples of the next step."""
        count = len(self.examples.targets)
        if self._private is not None:
            return poisson_batch(count, self._private.sampling_rate, self.spec.seed, self.unit)
        epoch, position = divmod(self.unit, self.per_report)
        if epoch != self._epoch:
            stage = f"training/order/{epoch}"
            self._epoch, self._order = epoch, list(batches(count, self.spec.batch_size, self.spec.seed, stage))
        return self._order[position]

    def epochs(self) -> float:
        """Passes over the data."""
        return self.unit / self.per_report

    def tensors(self) -> dict[str, Tensor]:
        """Model, momentum and what defenses remember."""
        found = {f"{MODEL}{name}": tensor.clone() for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            velocity = self._sgd.state[parameter].get("momentum_buffer") if parameter in self._sgd.state else None
            if velocity is not None:
                found[f"{MOMENTUM}{name}"] = velocity.clone()
        return found | self._memories.tensors()

    def go_on(self, unit: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue from there."""
        self.unit = unit
        load_state(self.model, tensors)
        for name, parameter in self.model.named_parameters():
            if f"{MOMENTUM}{name}" in tensors:
                self._sgd.state[parameter]["momentum_buffer"] = tensors[f"{MOMENTUM}{name}"].clone()
        self._memories.go_on(tensors)
