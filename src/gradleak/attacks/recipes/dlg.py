"""Deep Leakage from Gradients (Zhu, Liu, Han, NeurIPS 2019)."""

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import squared_distance
from gradleak.optim import LBFGS


def dlg(
    *,
    outer_steps: int = 300,
    one_example_at_a_time: bool = True,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Inversion:
    """DLG as published: dummy inputs and dummy target logits from N(0, 1), squared distance, L-BFGS.

    L-BFGS with lr 1, history 100 and 20 inner steps, as in the released code; no line search, no box, no prior, so
    it diverges at times (status `nonfinite`) and stalls on flat initializations, as published loops do.

    Args:
        outer_steps: optimizer calls; 300 in the released code.
        one_example_at_a_time: in batches, outer step t moves example t mod N only (section 3.1 of the paper).
        restarts: independent starts.
        max_evaluations: over all restarts together; None leaves it to `outer_steps`.
        max_seconds: wall time; None leaves it to `outer_steps`.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    return Inversion(
        name="dlg",
        objective=squared_distance,
        optimizer=lambda count: LBFGS(
            outer_steps=outer_steps, inner_steps=20, lr=1.0, history=100, blocks=count if one_example_at_a_time else 1
        ),
        labels="joint",
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )
