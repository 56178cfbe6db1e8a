"""GradInversion, "See through Gradients" (Yin et al., CVPR 2021), written from the mathematics."""

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import Objective, sum_of_layer_distances
from gradleak.attacks.priors import Weighted, batch_norm_statistics, euclidean_norm, total_variation
from gradleak.optim import Adam, WarmCosine


def gradinversion(
    *,
    steps: int = 20_000,
    gradient_weight: float = 1e-3,
    batch_norm_weight: float = 0.1,
    total_variation_weight: float = 1e-4,
    norm_weight: float = 1e-6,
    group_weight: float = 0.01,
    noise: float = 0.2,
    restarts: int = 4,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Inversion:
    """GradInversion: layer distances, total variation, norm, BatchNorm statistics, and agreement of several seeds.

    Adam with lr 0.1, 50 warm-up steps and a cosine, Gaussian noise in each step. The code was never released; the
    weights are those of the paper as far as known to us. Agreement is with the plain mean over seeds, without the
    registration that the paper adds for large images. Labels are given, or found by the row minimum (distinct labels,
    features that are not negative).

    Args:
        steps: optimizer steps; fewer if `max_evaluations` allows only fewer, so that the schedule still ends.
        gradient_weight: weight of the summed layer distances.
        batch_norm_weight: weight of `priors.batch_norm_statistics`.
        total_variation_weight: weight of `priors.total_variation`.
        norm_weight: weight of `priors.euclidean_norm`.
        group_weight: weight of `priors.group_consistency`.
        noise: each step adds `noise * lr * N(0, 1)`.
        restarts: seeds optimized together.
        max_evaluations: over all restarts together; None leaves it to `steps`.
        max_seconds: wall time; None leaves it to `steps`.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    if max_evaluations is not None:
        steps = max(1, min(steps, max_evaluations // restarts - 1))
    return Inversion(
        name="gradinversion",
        objective=_scaled(gradient_weight),
        optimizer=lambda _count: Adam(steps=steps, lr=0.1, schedule=WarmCosine(50), noise=noise),
        labels="row_minimum",
        priors=(
            Weighted(total_variation_weight, total_variation),
            Weighted(norm_weight, euclidean_norm),
            Weighted(batch_norm_weight, batch_norm_statistics),
        ),
        group_weight=group_weight,
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )


def _scaled(weight: float) -> Objective:
    """The summed layer distances with their weight."""
    return lambda simulated, observed: weight * sum_of_layer_distances(simulated, observed)
