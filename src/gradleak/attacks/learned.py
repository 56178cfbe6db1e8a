"""The learned attack: an inverter trained on public data answers at once (Wu et al., UAI 2023)."""

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.attacks.objectives import squared_distance
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.starts import given
from gradleak.errors import refuse
from gradleak.optim import Adam
from gradleak.reconstructions import Reconstruction, Status
from gradleak.tasks import Task
from gradleak.threat import Observation

if TYPE_CHECKING:
    from gradleak.inverters import Inverter, InverterFacts

_REFINING_STEPS = 300
_REFINING_RATE = 0.01


@dataclass(frozen=True)
class Learned:
    """An inverter's answer, and a search from there if wanted; see `learned`."""

    weights: str | None
    refine: bool
    restarts: int
    max_evaluations: int | None
    max_seconds: float | None

    @property
    def name(self) -> str:
        """The name in tables."""
        return "learned"

    def problems(self, task: Task) -> list[str]:
        """A file that cannot be used, or an inverter for other inputs; each trial has model values of its own."""
        from gradleak.inverters import input_mismatches

        return [] if self.weights is None else input_mismatches(_inverter(self.weights)[1], task)

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`.

        Returns:
            The inverter's answer, or what a search from there found.

        Raises:
            BadInput: when the inverter was trained for another model, client or defense than the attacker knows of.
        """
        began = time.perf_counter()
        if self.weights is None:
            return not_applicable(self.name, observation, "no inverter was given; train one with gradleak learn")
        if observation.update.is_empty:
            return not_applicable(self.name, observation, "no evidence: every entry of the update is zero")
        if observation.batch_size != 1:
            count = "withheld" if observation.batch_size is None else observation.batch_size
            return not_applicable(
                self.name, observation, f"inverters are trained for one example, and the batch size is {count}"
            )
        from gradleak.inverters import mismatches

        inverter, facts = _inverter(self.weights)
        refuse(mismatches(facts, observation.task, observation.state, observation.client, observation.defenses))
        found = self._answer(observation, inverter, began)
        return self._refined(observation, found, seed, progress, began) if self.refine else found

    def _answer(self, observation: Observation, inverter: "Inverter", began: float) -> Reconstruction:
        """What the inverter says."""
        task = observation.task
        update = {name: observation.update.tensors[name] for name in observation.state.parameters}
        inputs, logits = inverter.invert(update)
        variable = task.encode(inputs)
        if observation.targets is not None:
            targets = task.target_probabilities(observation.targets)
        else:
            targets = task.target_probabilities(logits.argmax(dim=1))
        relative = _mismatch(observation, variable, targets)
        status: Status = "converged" if relative <= REPRODUCED else "budget"
        return Reconstruction(
            inputs=task.space.decode(inputs),
            targets=targets.argmax(dim=1),
            targets_given=observation.targets is not None,
            objective=relative,
            evaluations=1,
            seconds=time.perf_counter() - began,
            status=status,
            attack=self.name,
            variable=variable,
            target_probabilities=targets,
            message=f"the inverter's answer misses the update by a relative squared error of {relative:.1e}",
        )

    def _refined(
        self, observation: Observation, found: Reconstruction, seed: int, progress: Progress | None, began: float
    ) -> Reconstruction:
        """A short search from the answer; kept if it comes closer to the update."""
        steps = _REFINING_STEPS
        if self.max_evaluations is not None:
            steps = max(1, min(steps, self.max_evaluations - 2))
        search = Inversion(
            name=self.name,
            objective=squared_distance,
            optimizer=lambda _count: Adam(steps=steps, lr=_REFINING_RATE),
            labels="joint",
            start=given(found.variable),
            boxed=True,
            max_evaluations=self.max_evaluations,
            max_seconds=None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began),
            snapshots=0,
        )
        # Labels are the inverter's, so that the search moves the input alone.
        informed = replace(observation, targets=found.target_probabilities)
        refined = search(informed, seed=seed, progress=progress)
        if refined.status == "not_applicable":
            return replace(found, trace=(f"no search from the answer: {refined.message}",))
        relative = _mismatch(observation, refined.variable, refined.target_probabilities)
        trace = (
            f"the inverter's answer: relative squared error {found.objective:.1e}",
            f"search from there: {relative:.1e}",
        )
        spent = {
            "evaluations": found.evaluations + refined.evaluations,
            "seconds": time.perf_counter() - began,
            "trace": trace,
        }
        if not relative < found.objective:
            return replace(found, **spent)
        return replace(refined, objective=relative, targets_given=found.targets_given, **spent)


def learned(
    *,
    weights: str | Path | None = None,
    refine: bool = False,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
) -> Learned:
    """An inverter that `gradleak learn` trained on public data, for single examples (Wu et al., UAI 2023).

    The inverter belongs to one state of the model, one client and one list of defenses, which it has seen at work; no
    law of a defense has to be stated. It answers with what is probable given the update, which may be blurred where the
    update says little. An attacker who does not know the defenses takes the update for undefended, and only an inverter
    trained without defenses is his.

    Args:
        weights: the file `inverter.safetensors`; without one the attack does not apply.
        refine: search from the answer for a closer one: 300 steps of Adam on the squared distance.
        restarts: every restart would begin at the same answer, so more than one changes nothing.
        max_evaluations: at most.
        max_seconds: wall time of the search; None leaves it to its steps.

    Returns:
        The attack.
    """
    return Learned(None if weights is None else str(weights), refine, restarts, max_evaluations, max_seconds)


def _mismatch(observation: Observation, variable: Tensor, targets: Tensor) -> float:
    """How far a candidate's update is from the observed one; NaN where it cannot be simulated."""
    if observation.client is None and observation.update.kind != "gradient":
        return float("nan")
    with torch.no_grad():
        return mismatch(observation, variable, targets)


def _inverter(path: str) -> "tuple[Inverter, InverterFacts]":
    """Read the file, or remember it as long as it is the same."""
    facts = Path(path).stat() if Path(path).is_file() else None
    return _read(path, None if facts is None else (facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=2)
def _read(path: str, _stamp: tuple[int, int] | None) -> "tuple[Inverter, InverterFacts]":
    from gradleak.inverters import read_inverter

    return read_inverter(Path(path))
