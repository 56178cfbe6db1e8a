"""A Self-Adaptive Privacy Attack from Gradients, SAPAG (Wang et al. 2020)."""

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import GaussianKernelDistance
from gradleak.optim import Adam


def sapag(
    *,
    steps: int = 2000,
    lr: float = 0.01,
    weight_decay: float = 0.01,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Inversion:
    """SAPAG: a Gaussian kernel distance whose width each layer takes from its own gradient, minimized by AdamW.

    The kernel is the paper's; the numbers of the optimizer are ours, since the paper's could not be checked. Targets
    are optimized with the inputs, from N(0, 1) both.

    Args:
        steps: optimizer steps; fewer if `max_evaluations` allows only fewer.
        lr: learning rate.
        weight_decay: decoupled weight decay.
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
        name="sapag",
        objective=GaussianKernelDistance(),
        optimizer=lambda _count: Adam(steps=steps, lr=lr, weight_decay=weight_decay),
        labels="joint",
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )
