"""Inverting Gradients (Geiping, Bauermeister, Droege, Moeller, NeurIPS 2020)."""

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import cosine_distance
from gradleak.attacks.priors import Weighted, total_variation
from gradleak.optim import Adam, tenfold_drops


def inverting_gradients(
    *,
    steps: int = 4800,
    total_variation_weight: float = 1e-1,
    signed: bool = True,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Inversion:
    """Inverting Gradients as released: cosine distance plus total variation, signed Adam, box, best of restarts.

    Learning rate 0.1 with a tenth after 3/8, 5/8 and 7/8 of the steps, start N(0, 1), projection onto the pixel
    bounds after each step, 4,800 steps and total variation 1e-1 as in the library of the released code (its command
    line: 24,000 and 1e-4). The gradient's sign is the paper's choice and the command line's; the library's default
    is unsigned. The variable is the image in pixel units, where the released code uses normalized ones. Labels are
    given, or found by the sign rule for a single example.

    Args:
        steps: optimizer steps; fewer if `max_evaluations` allows only fewer, so that the schedule still ends.
        total_variation_weight: weight of `priors.total_variation`.
        signed: feed the sign of the gradient to Adam.
        restarts: independent starts.
        max_evaluations: over all restarts together; None leaves it to `steps`.
        max_seconds: wall time; None leaves it to `steps`.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    if max_evaluations is not None:
        steps = max(1, min(steps, max_evaluations // restarts - 1))
    return Inversion(
        name="inverting_gradients",
        objective=cosine_distance,
        optimizer=lambda _count: Adam(steps=steps, lr=0.1, signed=signed, schedule=tenfold_drops),
        labels="row_sum_sign",
        priors=(Weighted(total_variation_weight, total_variation),),
        boxed=True,
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )
