"""A search with first derivatives only, for models without double backward."""

from gradleak.attacks.finite_difference import STEP
from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import normalized_squared_distance
from gradleak.attacks.starts import flat
from gradleak.optim import WolfeLBFGS

_EXPLAINED = 1e-15


def finite_differences(
    *,
    step: float = STEP,
    spectrum: float = 0.7,
    restarts: int = 1,
    max_evaluations: int | None = 1500,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Inversion:
    """The first round of `staged` with its gradient from differences of the input gradient: no double backward.

    For models with a custom autograd Function that can be differentiated once only, or with a kernel whose second
    derivative PyTorch lacks. Labels are given, or optimized with the inputs. The step suits float64, in which it
    computes; where activations have kinks, smaller steps cross fewer of them (see `gradleak inspect`).

    Args:
        step: length of the move in the weights, see `finite_difference.finite_difference_energy`.
        spectrum: images: exponent of the weighted frequencies in which they are searched.
        restarts: independent starts, evaluated in turn; the one with the lowest objective is returned.
        max_evaluations: over all restarts together; each costs 7 forward passes.
        max_seconds: wall time; None for no limit.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    return Inversion(
        name="finite_differences",
        objective=normalized_squared_distance,
        optimizer=lambda _count: WolfeLBFGS(),
        labels="joint",
        start=flat(0.5, spread=0.1),
        spectrum=spectrum,
        precision="double",
        derivative="finite_difference",
        step=step,
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        stop_at=_EXPLAINED,
        snapshots=snapshots,
    )
