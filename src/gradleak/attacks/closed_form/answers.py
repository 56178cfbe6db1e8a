"""The result of a closed form, measured against the observed update like that of every other attack."""

import time

import torch
from torch import Tensor

from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.reconstructions import Reconstruction, Status
from gradleak.threat import Observation


def answer(
    name: str,
    observation: Observation,
    variable: Tensor,
    targets: Tensor,
    *,
    began: float,
    evaluations: int = 0,
    message: str = "",
) -> Reconstruction:
    """Wrap what a closed form found, after one evaluation that measures it.

    Args:
        name: the attack's name.
        observation: what it was given.
        variable: what it found, `[N, *variable_shape]`.
        targets: class indices `[N]`, or probabilities `[N, C]`.
        began: `time.perf_counter()` at its start.
        evaluations: those that it used before this one.
        message: put before the sentence on the mismatch.

    Returns:
        A reconstruction with status `converged` if the update is reproduced, else `budget`; `nonfinite` if the closed
        form overflowed.
    """
    probabilities = observation.task.target_probabilities(targets)
    finite = bool(torch.isfinite(variable).all())
    objective = mismatch(observation, variable, probabilities) if finite else float("inf")
    status: Status = "converged" if objective <= REPRODUCED else "budget" if finite else "nonfinite"
    return Reconstruction(
        inputs=observation.task.space.decode(variable),
        targets=probabilities.argmax(dim=1),
        targets_given=observation.targets is not None,
        objective=objective,
        evaluations=evaluations + 1,
        seconds=time.perf_counter() - began,
        status=status,
        attack=name,
        variable=variable,
        target_probabilities=probabilities,
        message=f"{message}; ".lstrip("; ") + f"the update is met to a relative squared error of {objective:.1e}",
    )
