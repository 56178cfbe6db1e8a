"""Client Privacy Leakage (Wei et al., ESORICS 2020)."""

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import squared_distance
from gradleak.attacks.priors import Weighted, task_loss
from gradleak.attacks.starts import patterned
from gradleak.optim import LBFGS


def cpl(
    *,
    outer_steps: int = 300,
    tile: int = 16,
    label_weight: float = 1.0,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Inversion:
    """CPL: squared distance plus the loss on the recovered label, from a small random tile repeated over the image.

    L-BFGS with lr 1 and 300 outer steps, box after each. Tile 16 and a task-loss term of weight 1 follow the preset of
    the `breaching` package; the paper states the label term as a squared distance of the outputs. Labels are given, or
    found by the sign rule for a single example.

    Args:
        outer_steps: optimizer calls.
        tile: side of the tile in pixels.
        label_weight: weight of `priors.task_loss`.
        restarts: independent starts.
        max_evaluations: over all restarts together; None leaves it to `outer_steps`.
        max_seconds: wall time; None leaves it to `outer_steps`.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    return Inversion(
        name="cpl",
        objective=squared_distance,
        optimizer=lambda _count: LBFGS(outer_steps=outer_steps, inner_steps=20, lr=1.0, history=100),
        labels="row_sum_sign",
        priors=(Weighted(label_weight, task_loss),),
        start=patterned(tile),
        boxed=True,
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )
