"""Whether an update may be taken at its word."""

from gradleak.bottleneck import bottlenecks
from gradleak.clients import DPSGD, Aggregate, Client, Gradient
from gradleak.clients.settings import stateful_layers
from gradleak.threat import Observation


def undisturbed(observation: Observation) -> bool:
    """Whether the update is known to be free of anybody's noise: no defense, and no client that adds some."""
    return observation.defenses == () and not _adds_noise(observation.client)


def _adds_noise(client: Client | None) -> bool:
    if isinstance(client, Aggregate):
        return any(map(_adds_noise, client.clients))
    return isinstance(client, DPSGD) and client.noise_multiplier > 0


def is_plain(observation: Observation) -> bool:
    """Whether the update is, as far as is known, the exact gradient of the model as it stands, in evaluation mode."""
    client = observation.client
    if client is None:
        return undisturbed(observation)
    exact = isinstance(client, Gradient) and client.dropout in {None, "off"} and client.autocast is None
    batch_statistics = getattr(client, "mode", "eval") == "train" and bool(stateful_layers(observation.task.model))
    latent = bool(bottlenecks(observation.task.model))
    return exact and not batch_statistics and not latent and undisturbed(observation)
