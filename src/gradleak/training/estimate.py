"""How long a training will take, from a few steps of it on a model that is then dropped."""

import time

from gradleak.threads import torch_threads
from gradleak.training.backward import backward_of
from gradleak.training.defending import Defending
from gradleak.training.memories import Memories
from gradleak.training.preparing import Prepared
from gradleak.training.private import trial_settings
from gradleak.training.spec import TrainSpec
from gradleak.training.splitting import split_among_clients
from gradleak.training.steps import MOST_EVALUATED, batches_of, examples_for, sgd, step

TIMED_STEPS = 3
FORWARD = 1 / 3
"""What looking at an example takes of the time of training on it."""


def estimate_seconds(spec: TrainSpec, prepared: Prepared, defending: Defending) -> float:
    """Seconds for the whole training.

    Args:
        spec: checked.
        prepared: its data.
        defending: with the untrained model, which is changed.

    Returns:
        An estimate, good to within a factor of two on a quiet machine.
    """
    model = defending.task.model
    private = None if spec.dp is None else trial_settings(spec.dp, min(spec.batch_size, len(prepared.train)))
    backward = backward_of(spec, defending, private, Memories())
    chosen = prepared.train.subset(prepared.train.indices(min(spec.batch_size, len(prepared.train)), seed=0))
    batch = examples_for(model, chosen.inputs, chosen.targets, prepared.space)
    own = sgd(model.train(), spec.optimizer)
    with torch_threads(spec.threads):
        step(model, own, 0.0, batch, spec.augmentation, spec.seed, "estimate", backward)  # the first one sets memory up
        began = time.perf_counter()
        for number in range(TIMED_STEPS):
            step(model, own, 0.0, batch, spec.augmentation, spec.seed, f"estimate/{number}", backward)
        seconds = (time.perf_counter() - began) / TIMED_STEPS
    looked_at = min(MOST_EVALUATED, len(prepared.train)) + len(prepared.test)
    looks = FORWARD * _looks(spec, prepared) * looked_at / len(batch.targets)
    return seconds * (_steps(spec, prepared) + looks)


def _looks(spec: TrainSpec, prepared: Prepared) -> float:
    per_look = 1 if spec.federated is not None else batches_of(len(prepared.train), spec.batch_size)
    return len(prepared.stages) + max(stage.unit for stage in prepared.stages) / per_look


def _steps(spec: TrainSpec, prepared: Prepared) -> float:
    last = max(stage.unit for stage in prepared.stages)
    if spec.federated is None:
        return last
    parts = split_among_clients(prepared.train.targets, spec.federated, spec.seed)
    of_all = sum(batches_of(len(part), spec.batch_size) for part in parts)
    return last * of_all * spec.federated.participation * spec.federated.local_epochs
