"""Refine any attack's result by Levenberg-Marquardt on the residual of the update, in float64."""

import time
from dataclasses import replace

import torch
from torch import Tensor

from gradleak.attacks.layout import Layout
from gradleak.attacks.mismatch import REPRODUCED
from gradleak.attacks.precision import in_precision
from gradleak.attacks.spectrum import weighted_frequencies
from gradleak.optim import LevenbergMarquardt, Limits
from gradleak.optim.gauss_newton import Residual
from gradleak.optim.stages import Coordinates, unchanged
from gradleak.reconstructions import History, Reconstruction
from gradleak.threat import Observation, simulator


def update_residual(observation: Observation, layout: Layout, expand: Coordinates = unchanged) -> Residual:
    """The difference between simulated and observed update, divided by the observed norm.

    Its sum of squares is `objectives.normalized_squared_distance`.

    Args:
        observation: what the attacker holds.
        layout: of the flat candidate.
        expand: from the residual's own coordinates to the flat candidate.

    Returns:
        From coordinates `[D]` to all entries of the update `[P]`.
    """
    step, observed = simulator(observation), observation.update.tensors
    norm = observation.update.squared_norm() ** 0.5

    def residual(coordinates: Tensor) -> Tensor:
        simulated = step(*layout.unpack(expand(coordinates)))
        return torch.cat([(simulated[name] - observed[name]).flatten() for name in observed]) / norm

    return residual


def polish(
    observation: Observation,
    reconstruction: Reconstruction,
    *,
    solver: LevenbergMarquardt | None = None,
    spectrum: float = 0.7,
    limits: Limits | None = None,
) -> Reconstruction:
    """Continue from a reconstruction until the update is reproduced to rounding or a limit is reached.

    For smooth models: where activations have kinks the Jacobian jumps. Targets that are one-hot stay as they are.

    Args:
        observation: what the attacker holds.
        reconstruction: where to start; it is not changed.
        solver: the least-squares solver; None for its defaults.
        spectrum: exponent of the weighted frequencies in which images are searched.
        limits: when to stop.

    Returns:
        The refined reconstruction, its objective the normalized squared distance, its evaluations counting one for
        each residual and each Jacobian product; the given one if it is not applicable.
    """
    if reconstruction.status == "not_applicable":
        return reconstruction
    began = time.perf_counter()
    observation = in_precision(observation, torch.float64)
    targets = reconstruction.target_probabilities.double()
    fixed = targets if bool((targets.max(dim=1).values == 1).all()) else None
    layout = Layout.of(observation, len(targets), fixed)
    logits = targets.clamp(min=1e-12).log() if fixed is None else targets[:, :0]
    start = layout.pack(reconstruction.variable.double(), logits)
    expand, restrict = unchanged, unchanged
    if len(layout.variable_shape) == 4:
        expand, restrict = weighted_frequencies(layout, spectrum)
    ended = (solver or LevenbergMarquardt()).minimize(
        update_residual(observation, layout, expand), restrict(start), limits
    )
    if not ended.value < ended.trace[0]:
        return reconstruction
    variable, targets = layout.unpack(expand(ended.point))
    seconds = time.perf_counter() - began
    used = ended.evaluations + ended.products
    history = reconstruction.history
    return replace(
        reconstruction,
        inputs=observation.task.space.decode(variable),
        targets=targets.argmax(dim=1),
        objective=ended.value,
        evaluations=reconstruction.evaluations + used,
        seconds=reconstruction.seconds + seconds,
        status="converged" if ended.value <= REPRODUCED else reconstruction.status,
        variable=variable,
        target_probabilities=targets,
        message=f"the update is reproduced to a relative squared error of {ended.value:.1e}",
        history=History(
            (*history.evaluations, reconstruction.evaluations + used),
            (*history.seconds, reconstruction.seconds + seconds),
            (*history.objective, ended.value),
            history.snapshots,
        ),
    )
