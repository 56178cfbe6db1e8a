"""Deep Leakage from Gradients on language models (Zhu, Liu, Han, NeurIPS 2019, section 4.3)."""

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import squared_distance
from gradleak.attacks.text.search import TextInversion
from gradleak.optim import LBFGS


def dlg_text(
    *,
    outer_steps: int = 100,
    one_example_at_a_time: bool = True,
    begin: int | None = None,
    end: int | None = None,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> TextInversion:
    """DLG on text as published: dummy embeddings and dummy targets from N(0, 1), then the nearest tokens.

    Squared distance of the gradients of all layers but the embedding, L-BFGS with lr 1, history 100 and 20 inner steps
    as in `dlg`, 100 outer steps. N(0, 1) is in units of the root mean square of the embedding's entries: a start of
    standard deviation 1 beside embeddings of 0.02 drowns the positions, and nothing is recovered.

    Args:
        outer_steps: optimizer calls.
        one_example_at_a_time: in batches, outer step t moves example t mod N only (section 3.1 of the paper).
        begin: id with which every text begins, if the attacker knows one.
        end: id with which every text ends, if the attacker knows one.
        restarts: independent starts.
        max_evaluations: over all restarts together; None leaves it to `outer_steps`.
        max_seconds: wall time; None leaves it to `outer_steps`.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    search = Inversion(
        name="dlg_text",
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
    return TextInversion(search, begin, end, rms=1.0)
