"""The trials of `gradleak demo`: real faces and color photographs, attacked with DLG, iDLG and `auto`.

The private images are drawn by the seed among all that the bundled data hold; none is picked by hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from gradleak.attacks import Attack, auto, dlg, idlg
from gradleak.audits.plan import PlannedTrial
from gradleak.audits.records import record_id
from gradleak.audits.trial import Trial
from gradleak.errors import BadInput
from gradleak.seeds import stage_generator
from gradleak.tasks import ImageSpace, Task
from gradleak.zoo.data import Dataset, faces, photographs
from gradleak.zoo.models import lenet

IDENTITIES = 10
"""Classes of the faces. The bundled faces come without names, so each gets one of these at random."""

FACES_WITH_A_FACE = 100

CROP_SIZE = 24
"""Pixels per side of a crop: one start of DLG mostly succeeds in 800 evaluations; at 32 pixels 1400 are too few."""

_PUBLISHED: tuple[Callable[..., Attack], ...] = (dlg, idlg)


@dataclass(frozen=True)
class Demonstration:
    """What `gradleak demo` runs.

    Attributes:
        seed: draws images, identities, weights and starts.
        faces: number of faces, at most 100.
        photographs: number of color crops; one takes longer than three faces.
        face_outer_steps: optimizer calls for each face, of up to 20 evaluations each.
        photograph_outer_steps: optimizer calls for each crop.
    """

    seed: int = 0
    faces: int = 3
    photographs: int = 3
    face_outer_steps: int = 20
    photograph_outer_steps: int = 40

    def trials(self) -> tuple[Trial, ...]:
        """Every trial, in the order of the report.

        Returns:
            One for each image and attack.

        Raises:
            BadInput: when a number is out of range, or the packages that hold the images are not installed.
        """
        return _drawn_trials(self)

    def plan(self) -> tuple[PlannedTrial, ...]:
        """The same as plain data, for `run_audit`.

        Returns:
            One for each trial.

        Raises:
            BadInput: see `trials`.
        """
        return tuple(PlannedTrial(trial.id, trial.spec) for trial in self.trials())

    def build(self, spec: dict[str, Any]) -> Trial:
        """The trial that a spec describes, in any process.

        Args:
            spec: of one of the planned trials.

        Returns:
            The trial.

        Raises:
            BadInput: when the demonstration has no such trial.
        """
        return trial_of(self.trials(), spec)


@lru_cache(maxsize=4)  # cutting the crops takes about a second
def _drawn_trials(demonstration: Demonstration) -> tuple[Trial, ...]:
    seed = demonstration.seed
    return (
        *_trials(_identified_faces(seed), demonstration.faces, demonstration.face_outer_steps, seed),
        *_trials(photographs(CROP_SIZE), demonstration.photographs, demonstration.photograph_outer_steps, seed),
    )


def trial_of(trials: Sequence[Trial], spec: dict[str, Any]) -> Trial:
    """The one among the trials of a demonstration that a spec describes.

    Args:
        trials: all of them.
        spec: of one that was planned.

    Returns:
        The trial.

    Raises:
        BadInput: when there is no such trial.
    """
    wanted = record_id(spec)
    for trial in trials:
        if trial.id == wanted:
            return trial
    raise BadInput([f"trial: expected one of this demonstration, got {wanted}; plan it again"])


def _trials(dataset: Dataset, count: int, outer_steps: int, seed: int) -> list[Trial]:
    """Every attack on `count` single images, all with the same network."""
    channels, size = dataset.input_shape[0], dataset.input_shape[1]
    task = Task(
        lenet(dataset.num_classes, channels, input_size=size, seed=seed),
        ImageSpace((channels, size, size)),
        dataset.num_classes,
    )
    model = {"name": "lenet", "channels": channels, "input_size": size, "initialization": "uniform", "seed": seed}
    attacks: list[tuple[Attack, dict[str, object]]] = [
        (attack(outer_steps=outer_steps), {"name": attack.__name__, "outer_steps": outer_steps})
        for attack in _PUBLISHED
    ]
    # Without a limit in seconds, so that the results do not depend on the machine.
    attacks.append((auto(max_seconds=None, max_evaluations=2000), {"name": "auto", "max_evaluations": 2000}))
    return [
        Trial(
            task=task,
            model=model,
            data={"name": dataset.name, "count": len(dataset), "size": size},
            examples=[example],
            inputs=dataset.inputs[[example]],
            targets=dataset.targets[[example]],
            reference=dataset.inputs,
            attack=attack,
            attack_settings=settings,
            seed=trial_seed(seed, dataset.name, example),
        )
        for example in _drawn(dataset, count, seed)
        for attack, settings in attacks
    ]


def trial_seed(seed: int, name: str, example: int) -> int:
    """A seed for each image: from one start for all of them, attacks would succeed or fail all at once."""
    stream = stage_generator(seed, f"demo/{name}/{example}")
    return int(torch.randint(2**31, (), generator=stream))


def _drawn(dataset: Dataset, count: int, seed: int) -> list[int]:
    """Positions of the private images, from a stream of their own for each data set."""
    order = torch.randperm(len(dataset), generator=stage_generator(seed, f"demo/{dataset.name}"))
    return order[:count].tolist()


def _identified_faces(seed: int) -> Dataset:
    """The faces without the patches that show none, each with a random identity."""
    only = faces().subset(torch.arange(FACES_WITH_A_FACE))
    targets = torch.randint(IDENTITIES, (len(only),), generator=stage_generator(seed, "demo/identities"))
    return Dataset("faces", only.inputs, targets, tuple(f"person {number}" for number in range(IDENTITIES)))
