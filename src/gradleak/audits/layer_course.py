"""How close each layer's gradient came to the shared one while an attack ran."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.reconstructions import Reconstruction, Snapshot
from gradleak.threat import Observation, simulator
from gradleak.tokens import NO_TOKEN

MOMENTS = 8
"""Largest number of snapshots of a trial at which the layers are looked at."""


@dataclass(frozen=True)
class LayerCourse:
    """Distances by layer at a few moments.

    Attributes:
        names: of the update's tensors.
        evaluations: count at each moment.
        distances: for each moment and tensor, `||g' - g|| / ||g||`; NaN for a tensor of zeros.
    """

    names: tuple[str, ...] = ()
    evaluations: tuple[int, ...] = ()
    distances: tuple[tuple[float, ...], ...] = ()


def layer_course(observation: Observation, result: Reconstruction) -> LayerCourse:
    """Simulate the update of a few snapshots, with the targets that the attack ended with.

    Args:
        observation: what the client sent: all of it, so that layers are there too which the attack did not use.
        result: what came of it.

    Returns:
        Distances, of the result alone where an attack keeps no snapshots; nothing where there is no result, or the
        update cannot be simulated.
    """
    snapshots = result.history.snapshots or (Snapshot(result.evaluations, result.inputs),)
    complete = all(_complete(snapshot.inputs) for snapshot in snapshots)
    if not complete or (observation.client is None and observation.update.kind != "gradient"):
        return LayerCourse()
    last = len(snapshots) - 1
    chosen = sorted({round(step * last / (MOMENTS - 1)) for step in range(MOMENTS)})
    task, step = observation.task, simulator(observation)
    targets = result.target_probabilities.to(task.device, task.dtype)
    distances: list[tuple[float, ...]] = []
    for position in chosen:
        inputs = snapshots[position].inputs
        # Ids stay as they are: half precision would round large ones to other tokens.
        variable = task.encode(inputs.to(task.device, task.dtype) if inputs.is_floating_point() else inputs)
        with torch.no_grad():
            simulated = step(variable, targets)
        rows = [
            (simulated[name] - tensor).norm() / tensor.norm() for name, tensor in observation.update.tensors.items()
        ]
        distances.append(tuple(value if value != float("inf") else float("nan") for value in map(float, rows)))
    return LayerCourse(
        tuple(observation.update.tensors),
        tuple(snapshots[position].evaluations for position in chosen),
        tuple(distances),
    )


def _complete(inputs: Tensor) -> bool:
    """Whether a candidate has a value everywhere: no NaN, and no position without a token."""
    return bool(inputs.isfinite().all()) if inputs.is_floating_point() else bool((inputs != NO_TOKEN).all())
