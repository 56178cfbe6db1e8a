"""Improved Deep Leakage from Gradients (Zhao, Mopuri, Bilen 2020)."""

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import squared_distance
from gradleak.optim import LBFGS


def idlg(
    *,
    outer_steps: int = 300,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Inversion:
    """IDLG as published: the label from the sign rule, then DLG on the inputs alone.

    The rule holds for one example with a hard label and features that are not negative; for batches it is not
    applicable unless the labels are given.

    Args:
        outer_steps: optimizer calls; 300 in the released code, which stops early below an objective of 1e-6.
        restarts: independent starts.
        max_evaluations: over all restarts together; None leaves it to `outer_steps`.
        max_seconds: wall time; None leaves it to `outer_steps`.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    return Inversion(
        name="idlg",
        objective=squared_distance,
        optimizer=lambda count: LBFGS(outer_steps=outer_steps, inner_steps=20, lr=1.0, history=100),
        labels="row_sum_sign",
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        stop_at=1e-6,
        snapshots=snapshots,
    )
