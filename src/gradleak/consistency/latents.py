"""The noise of a bottleneck's latent variable (PRECODE), read from the update itself, so that it can be recomputed."""

import time
from dataclasses import replace

from torch import Tensor

from gradleak.attacks.latents.batches import read_latents
from gradleak.attacks.latents.reading import read_latent
from gradleak.bottleneck import bottlenecks
from gradleak.clients import Gradient
from gradleak.consistency.hypotheses import Setting
from gradleak.consistency.precision import Precision, Recompute
from gradleak.tasks import Task
from gradleak.threat import Observation
from gradleak.updates import Update, parted

# Errors of the reading grow on the way back to the update.
_SLACK = 10.0


def with_latents_read(
    task: Task, setting: Setting, update: Update, precision: Precision, seconds: float
) -> tuple[Recompute, Precision] | None:
    """The client's step with the latent noise that the update itself tells.

    The gradients of a bottleneck's two linear layers hold their inputs, hence the noise; nothing of the private inputs
    is used.

    Args:
        task: with the bottleneck.
        setting: what is believed.
        update: the observed gradient under the model's names, without defenses of its entries.
        precision: how exactly it could agree if the noise were known.
        seconds: for telling the examples of a batch apart.

    Returns:
        What makes updates with this noise, and how exactly they can agree; None where it cannot be read.
    """
    client, count = setting.client, len(setting.variable)
    if not bottlenecks(task.model) or not isinstance(client, Gradient) or update.kind != "gradient":
        return None
    observation = Observation(task, setting.state, update, client=client, defenses=(), batch_size=count)
    if count == 1:
        reading = read_latent(observation)
    else:
        reading = read_latents(observation, setting.probabilities.double(), 0, time.perf_counter() + seconds)
    if isinstance(reading, str):
        return None
    draws = {name: noise.to(setting.variable) for name, noise in reading.draws.items()}

    def recompute(setting: Setting) -> dict[str, Tensor]:
        assert isinstance(setting.client, Gradient)  # no hypothesis makes another client of one
        _, simulate = setting.client.bind_draws(task, setting.state)
        sent = simulate(setting.variable, setting.probabilities, draws)
        return {name: tensor.detach() for name, tensor in parted(sent, setting.state.parameters)[0].items()}

    tolerance = max(precision.tolerance, _SLACK * reading.precision)
    why = (
        f"{precision.statement}; the latent noise of the bottleneck {reading.place} is the client's secret, and was "
        f"read from the update itself to {reading.precision:.1g}: with it, an error of {tolerance:.1g} is accepted"
    )
    return recompute, replace(precision, tolerance=tolerance, statement=why)
