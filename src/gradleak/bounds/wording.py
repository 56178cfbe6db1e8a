"""For whom a bound holds, and under what: in sentences."""

from collections.abc import Sequence

from gradleak.bottleneck import LatentNoise
from gradleak.bounds.noise import NoiseStage
from gradleak.clients import Aggregate, Client
from gradleak.defenses import AddsNoise, ChangesBatch, Defense, Quantize
from gradleak.tasks import Task


def assumptions(
    task: Task,
    client: Client,
    defenses: Sequence[Defense],
    stage: NoiseStage,
    labels: str,
    *,
    partial: bool,
    cost: float,
    peak: float,
) -> tuple[str, ...]:
    """What was taken for granted.

    Args:
        task: with the defenses that are parts of the model built in.
        client: how the update is made.
        defenses: in order.
        stage: the noise.
        labels: what of them is unknown, see `leakage_bound.Labels`.
        partial: whether only a part of the spectrum was computed.
        cost: estimated seconds of the whole.
        peak: range of the inputs.

    Returns:
        Sentences.
    """
    said = [
        "The bound holds for unbiased estimates of this batch, not clipped and without prior knowledge; an attacker "
        "who knows what images look like can be closer.",
        "It is local: the derivative at the batch itself, at kinks (ReLU, pooling, clipping, pruning) that of the side "
        "on which the batch lies.",
        "Model, client, defenses and their settings are granted, and so are private choices other than noise (orders, "
        "masks, mixing), as they fell for this seed.",
        _of_labels(labels),
        _of_noise(stage),
        *stage.assumptions,
    ]
    laws = {defense.noise_law for defense in defenses if isinstance(defense, AddsNoise) and defense.noise_std}
    if "laplace" in laws:
        said.append(
            "An entry under Laplace noise of scale b has Fisher information 1/b^2; an estimate that reaches it needs "
            "many entries for each unknown."
        )
    if stage.rounds:
        said.append("Rounding before the noise counts as uniform noise of a step's square over 12, an approximation.")
    members = client.members if isinstance(client, Aggregate) else (client,)
    if any(getattr(member, "dropout", None) == "random" for member in members):
        said.append("Random dropout is left out: the derivative is that of the step in which nothing is dropped.")
    if any(getattr(member, "autocast", None) for member in members):
        said.append("Mixed precision is left out: the step is differentiated in float64.")
    if any(getattr(member, "send_buffers", False) for member in members) and stage.inverse_information:
        said.append("Buffers are sent without noise, and count as exact up to rounding.")
    if any(isinstance(module, LatentNoise) for module in task.model.modules()):
        said.append("The noise of the model's latent variable is left out: the derivative is that at its mean.")
    if any(isinstance(defense, ChangesBatch) for defense in defenses):
        said.append("The batch is changed before the step by known draws, and differentiated through.")
    if partial:
        said.append(
            f"The whole spectrum would take about {cost:.0f} s; the leading directions and an estimated trace of the "
            "rest, raised by three standard errors, give a floor that lies below the true one, and free directions are "
            "not found."
        )
    if peak != 1:
        said.append(f"The peak of the PSNR is {peak:g}, the range of the inputs.")
    return tuple(said)


def _of_labels(labels: str) -> str:
    return {
        "known": "The targets are known.",
        "classes": "Which class each example has is unknown but not estimated along: a class has no derivative, so the "
        "bound is that of an attacker who gets the classes right.",
        "probabilities": "The targets' probabilities are unknown and estimated along, by coordinates in which rows sum "
        "to 1.",
    }[labels]


def _of_noise(stage: NoiseStage) -> str:
    if stage.inverse_information:
        return (
            f"The noise on each entry is independent, and bounds its Fisher information by "
            f"1 / {stage.inverse_information**0.5:.3g}^2 per squared unit of the update."
        )
    formats = [defense.format for _, defense in stage.before if isinstance(defense, Quantize)]
    what = f"the rounding to {' and '.join(formats)}" if formats else "the rounding of the type in which it is computed"
    return f"There is no noise; {what} counts as independent noise of the same variance, an approximation."
