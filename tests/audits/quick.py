"""Planned trials that take milliseconds, and some that misbehave; each is built from its spec in any process."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

import gradleak as gl
from gradleak.attacks import Attack, Progress, linear_layer
from gradleak.attacks.protocol import not_applicable
from gradleak.audits.plan import PlannedTrial
from gradleak.audits.store import Store
from gradleak.audits.trial import Trial
from gradleak.zoo.models import mlp

PUBLIC = 12


@dataclass(frozen=True)
class Misbehaves:
    """An attack that does what it is told.

    `crash` raises an exception, `sleep` takes half a second, `die` kills its process, and `die once PATH` does so
    unless the file is there, which it makes.
    """

    what: str
    name: str = "misbehaves"

    def __call__(
        self, observation: gl.Observation, *, seed: int = 0, progress: Progress | None = None
    ) -> gl.Reconstruction:
        began = time.perf_counter()
        kind, _, path = self.what.partition(" once ")
        if kind == "crash":
            raise ZeroDivisionError("no luck")
        if kind == "sleep":
            time.sleep(0.5)
        if kind == "die" and not (path and os.path.exists(path)):
            if path:
                with open(path, "x", encoding="utf-8"):
                    pass
            os.kill(os.getpid(), signal.SIGKILL)
        answer = not_applicable(self.name, observation, "as told")
        return replace(answer, seconds=time.perf_counter() - began)


@lru_cache
def _task(network: int) -> tuple[gl.Task, torch.Tensor]:
    public = torch.rand((PUBLIC, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    model = mlp(64, (16,), 4, seed=network)
    return gl.Task(model, gl.ImageSpace((1, 8, 8)), 4), public


def _attack(what: str) -> Attack:
    return linear_layer() if what == "linear_layer" else Misbehaves(what)


def quick_trial(number: int, what: str, network: int) -> Trial:
    """One trial on one image; `number` tells it from others."""
    task, public = _task(network)
    example = number % PUBLIC
    return Trial(
        task=task,
        model={"name": "mlp", "seed": network},
        data={"name": "noise"},
        examples=[example],
        inputs=public[[example]],
        targets=torch.tensor([number % 4]),
        reference=public,
        attack=_attack(what),
        attack_settings={"name": what},
        seed=number,
    )


def build(spec: dict[str, Any]) -> Trial:
    """The trial of a spec that `plan` made."""
    if spec["attack"]["name"] == "unknown":
        raise LookupError("no such attack")
    return quick_trial(spec["seed"], spec["attack"]["name"], spec["model"]["seed"])


def plan(what: str | Sequence[str] = "linear_layer", count: int = 1, networks: int = 1) -> list[PlannedTrial]:
    """`count` trials of one kind, or one of each kind; the networks take turns."""
    kinds = [what] * count if isinstance(what, str) else list(what)
    trials = [quick_trial(number, kind, number % networks) for number, kind in enumerate(kinds)]
    return [PlannedTrial(trial.id, trial.spec) for trial in trials]


def outcomes(store: Store) -> dict[str, tuple[object, ...]]:
    """What has to be the same wherever and however often interrupted trials run: everything but times and places."""
    found: dict[str, tuple[object, ...]] = {}
    for record in store.records():
        images = store.images(record)
        pixels = None if images is None else images.reconstruction.numpy().tobytes()
        found[record.id] = (record.status, record.to_line().partition('"objective"')[0], str(record.objective), pixels)
    return found
