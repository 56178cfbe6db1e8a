"""The latent variable of a single example, read from the gradients of a variational bottleneck.

Encoder and decoder are linear layers with biases, so both of their inputs follow by division: the features h of the
example, hence mu and sigma, and the latent variable z. The noise is `(z - mu) / sigma`, and nothing of it stays secret.
What lies below is a network without randomness whose outputs are mu and log sigma^2, and whose loss has a derivative by
them that was sent as well: the gradient of the encoder's bias.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradleak.attacks.closed_form.single import SingleExample, single_example
from gradleak.attacks.head import find_head
from gradleak.bottleneck import VariationalBottleneck, bottlenecks
from gradleak.clients.stateless import NOISE
from gradleak.defenses import Precode
from gradleak.tasks import ModelState, Task
from gradleak.threat import Observation

# The gradient of one example's linear layer is an outer product; one that misses by more is another's, or defended.
_OUTER = 1e-2


@dataclass(frozen=True, eq=False)
class LatentReading:
    """What the gradients of a bottleneck say about the examples.

    Attributes:
        place: name of the bottleneck.
        noise: `[N, width]`, in float64.
        derivative: of each example's own loss by the encoder's outputs, `[N, 2 * width]`.
        precision: relative error of the gradients, or of the features, as far as it is known.
        features: what enters the encoder, `[N, D]`.
    """

    place: str
    noise: Tensor
    derivative: Tensor
    precision: float
    features: Tensor

    @property
    def draws(self) -> dict[str, Tensor]:
        """The noise by the name of the buffer that takes it, see `clients.Gradient.bind_draws`."""
        return {f"{inside(self.place, 'noise')}.{NOISE}": self.noise}


@dataclass(frozen=True, eq=False)
class Pairing:
    """A loss whose derivative by the outputs `[N, C]` is known."""

    derivative: Tensor

    def __call__(self, outputs: Tensor, target_probabilities: Tensor) -> Tensor:
        """The outputs `[N, C]` weighted by the derivative, averaged over the batch."""
        del target_probabilities
        return (outputs * self.derivative.to(outputs)).sum(dim=-1).mean()


class _Encoder(nn.Module):
    """A bottleneck that ends in mu and log sigma^2, with the same names of its parameters."""

    def __init__(self, encoder: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor) -> Tensor:
        """Outputs of the encoder."""
        return self.encoder(features)


def read_latent(observation: Observation) -> LatentReading | str:
    """Read the noise of a single example's latent variable.

    Args:
        observation: of a gradient; it is not changed.

    Returns:
        What was read, or why it cannot be.
    """
    found = bottlenecks(observation.task.model)
    if len(found) != 1 or observation.batch_size != 1 or observation.update.kind != "gradient":
        return "a latent variable is read from the gradient of one example and one bottleneck"
    ((place, layer),) = found.items()
    parts: list[SingleExample] = []
    for part in ("encoder", "decoder"):
        weight, bias = (observation.update.tensors.get(inside(place, f"{part}.{kind}")) for kind in ("weight", "bias"))
        if weight is None or bias is None or not bool(bias.any()):
            return f"the gradient of the {part} was not sent"
        parts.append(single_example(weight, bias))
    encoder, decoder = parts
    precision = max(encoder.precision, decoder.precision)
    if not precision < _OUTER:
        return f"the bottleneck's gradients are no outer products, by {precision:.1e} of their norm"
    weight, bias = (value_of(observation.state, inside(place, f"encoder.{kind}")) for kind in ("weight", "bias"))
    mean, log_variance = (weight @ encoder.features + bias).split(layer.width)
    noise = (decoder.features - mean) / (log_variance / 2).exp()
    return LatentReading(place, noise[None], encoder.residual[None], precision, encoder.features[None])


def below_latent(observation: Observation, reading: LatentReading) -> Observation | str:
    """The observation of the layers below, a network without randomness and with known derivatives at its outputs.

    Which example is which is settled by the reading.

    Args:
        observation: what the attacker holds; it is not changed.
        reading: of all examples.

    Returns:
        An observation whose targets mean nothing; or why there is none.
    """
    task = observation.task
    head = find_head(task, observation.state)
    parent = reading.place.rpartition(".")[0]
    model = copy.deepcopy(task.model)
    names = [inside(parent, name) for name, _ in model.get_submodule(parent).named_children()]
    if head is None or len(names) != 2 or names[0] != reading.place or head.weight != f"{names[1]}.weight":
        return "the bottleneck does not stand right before the classifier"
    bottleneck = model.get_submodule(names[0])
    assert isinstance(bottleneck, VariationalBottleneck)
    model.set_submodule(names[0], _Encoder(bottleneck.encoder))
    model.set_submodule(names[1], nn.Identity())
    parameters = {name for name, _ in model.named_parameters()}
    known = parameters | {name for name, _ in model.named_buffers()}
    classes = 2 * bottleneck.width
    update = observation.update
    return replace(
        observation,
        task=Task(model, task.space, classes, Pairing(reading.derivative)),
        state=ModelState(
            {name: value for name, value in observation.state.parameters.items() if name in parameters},
            {name: value for name, value in observation.state.constants.items() if name in known},
        ),
        update=replace(update, tensors={name: value for name, value in update.tensors.items() if name in parameters}),
        defenses=None
        if observation.defenses is None
        else tuple(defense for defense in observation.defenses if not isinstance(defense, Precode)),
        targets=torch.zeros(len(reading.noise), dtype=torch.long),
    )


def inside(place: str, name: str) -> str:
    """Full name of what is inside a module."""
    return f"{place}.{name}" if place else name


def value_of(state: ModelState, name: str) -> Tensor:
    """A value of the model in float64."""
    return {**state.constants, **state.parameters}[name].double()
