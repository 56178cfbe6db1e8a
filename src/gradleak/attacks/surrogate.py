"""One gradient in place of many local steps: the path of local training is almost a straight line when lr is small.

Then the update divided by minus the learning rate and the number of steps is nearly the gradient of the whole private
batch somewhere on the line between the weights before and after (Zhu, Yao, Blaschko 2023), best at its middle, where
the error is of second order in the length of the path.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.defended.rescaling import rescaled
from gradleak.clients import Aggregate, Client, Gradient, LocalAdam, LocalSGD
from gradleak.clients.gradient import gradient_like
from gradleak.clients.local_training import LocalTraining
from gradleak.clients.settings import StepSettings
from gradleak.defenses import Defense
from gradleak.errors import refuse
from gradleak.tasks import ModelState
from gradleak.threat import Observation
from gradleak.updates import Update, difference_rounding

MIDDLE = 0.5
"""Share of a long path at which the surrogate's error is of second order."""


@dataclass(frozen=True)
class Scale:
    """How a sum of local steps is a multiple of one gradient, see `path_scale`.

    Attributes:
        gradient: the update is minus this times a gradient, plus `weights` times the weights before.
        weights: what weight decay adds.
    """

    gradient: float
    weights: float = 0.0


def path_scale(observation: Observation) -> Scale | None | str:
    """What the local steps multiply a constant gradient with: `lr` times their number for plain SGD.

    Momentum and weight decay are linear, so that running the client's own rule on two numbers gives their factors.

    Args:
        observation: what the attacker holds.

    Returns:
        The scale; None where the client or the number of examples is withheld, so that the direction alone is known;
        or why a straight path says nothing about this client.
    """
    client = observation.client
    if client is None:
        return None if observation.update.kind == "delta" else Scale(1.0)
    if isinstance(client, LocalTraining):
        return _client_scale(client, observation.batch_size)
    if isinstance(client, Aggregate) and all(isinstance(member, LocalTraining) for member in client.members):
        count = observation.batch_size
        sizes = [None] * len(client.members) if count is None else [len(part) for part in client.parts(count)]
        scales = [
            _client_scale(member, size)
            for member, size in zip(client.members, sizes, strict=True)
            if isinstance(member, LocalTraining)
        ]
        first = scales[0]
        if any(scale != first for scale in scales[1:]):
            return "the clients of the aggregate take paths of different lengths, which no single gradient stands for"
        return first
    return "the update was not made by local steps"


def _client_scale(client: LocalTraining, count: int | None) -> Scale | None | str:
    """The scale of one client with `count` examples."""
    if isinstance(client, LocalAdam):
        return "Adam's steps are nearly signs of gradients, so their sum is not a multiple of any gradient"
    if isinstance(client, LocalSGD) and client.proximal:
        return "the proximal term pulls the path back, so it is not a multiple of any gradient"
    if count is None and client.batch_size is not None:
        return None
    steps = client.steps(count or 1)
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    return Scale(-_moved(client, steps, zero, one), _moved(client, steps, one, zero))


def _moved(client: LocalTraining, steps: int, weight: Tensor, gradient: Tensor) -> float:
    """How far one weight moves under a constant gradient."""
    parameters, memory = {"w": weight}, {}
    for step in range(1, steps + 1):
        parameters, memory = client.rule(parameters, {"w": gradient}, memory, step)
    return float(parameters["w"] - weight)


def surrogate_state(observation: Observation, alpha: float | Tensor = MIDDLE) -> ModelState:
    """The weights at a share alpha of the way from before to after the client's steps.

    Returns:
        `w_before + alpha * delta`; the state itself where the update is a gradient.
    """
    state, update = observation.state, observation.update
    if update.kind != "delta":
        return state
    moved = {
        name: state.parameters[name] + alpha * tensor.to(state.parameters[name])
        for name, tensor in update.tensors.items()
    }
    return ModelState({name: moved.get(name, value) for name, value in state.parameters.items()}, state.constants)


def surrogate_client(client: Client | None) -> Client:
    """The client that sends one gradient in the way in which the given one makes each of its steps."""
    if isinstance(client, Aggregate):
        return replace(client, clients=tuple(surrogate_client(member) for member in client.clients))
    if not isinstance(client, StepSettings):
        return Gradient(dropout="off")
    dropout = "off" if client.dropout == "random" else client.dropout
    return replace(gradient_like(client), dropout=dropout, send_buffers=False)


def middle(observation: Observation) -> float:
    """Where the gradients of a straight path lie on average: step s of S is taken at a share `s / S`, from 0 on.

    Returns:
        `(S - 1) / (2 S)`, which is 0 for one step, whose gradient is exact; 1/2 where S is not known.
    """
    client, count = observation.client, observation.batch_size
    if isinstance(client, Aggregate) and count is not None and client.members:
        client, count = client.members[0], len(client.parts(count)[0])
    if not isinstance(client, LocalTraining) or (count is None and client.batch_size is not None):
        return MIDDLE
    steps = client.steps(count or 1)
    return (steps - 1) / (2 * steps)


def surrogate_gradient(
    observation: Observation, alpha: float | None = None, *, scale: float | None = None
) -> Observation:
    """The observation of one gradient that stands for local training, so that attacks on gradients apply to it.

    Args:
        observation: of a weight delta; it is not changed.
        alpha: share of the path at which the gradient is taken, in [0, 1]; 0 are the weights before, None for `middle`.
        scale: what divides minus the delta to give a gradient, above 0; None for `path_scale`.

    Returns:
        The observation of a gradient of the whole private batch, with the sign of a gradient and without buffers.
        Defenses are given in its units; where they do not say what they become there, none are. Where the scale is
        not known it remains a delta of an unknown client, of which only the direction counts: attacks on gradients
        then say that they do not apply. A gradient is returned as it is.

    Raises:
        BadInput: when alpha or the scale is out of range, or the client's path is no multiple of a gradient, as Adam's.
    """
    if observation.update.kind != "delta":
        return observation
    alpha = middle(observation) if alpha is None else alpha
    problems = [f"alpha: expected a share in [0, 1], got {alpha}; 0.5 is the middle"][: not 0 <= alpha <= 1]
    if scale is not None and not 0 < scale < float("inf"):
        problems.append(f"scale: expected a finite number above 0, got {scale}; lr times steps for plain SGD")
    found = Scale(scale) if scale is not None else path_scale(observation)
    if isinstance(found, str):
        problems.append(f"client: expected local steps of SGD, got another client ({found}); simulate it instead")
    refuse(problems)
    state = surrogate_state(observation, alpha)
    if not isinstance(found, Scale):
        return replace(observation, state=state, client=None, update=Update(observation.update.tensors, "delta"))
    return replace(
        observation,
        state=state,
        update=Update(_gradient(observation, found), "gradient", coarseness=_coarseness(observation)),
        client=surrogate_client(observation.client),
        defenses=_defenses(observation, found),
    )


def _defenses(observation: Observation, scale: Scale) -> tuple[Defense, ...] | None:
    """The defenses in units of the gradient, if all have such; none after weight decay, which is no change of scale."""
    if not observation.defenses:
        return observation.defenses
    factor = -1 / scale.gradient
    return (rescaled(observation.defenses, factor) or ()) if not scale.weights else ()


def _coarseness(observation: Observation) -> float:
    """What the subtraction of weights left of the digits."""
    update = observation.update
    return max(update.coarseness, difference_rounding(update.tensors, observation.state.parameters))


def _gradient(observation: Observation, scale: Scale) -> dict[str, Tensor]:
    """Minus the update over its scale, less what weight decay did."""
    before = observation.state.parameters
    gradient: dict[str, Tensor] = {}
    for name, tensor in observation.update.in_gradient_direction().items():
        decayed = tensor.double() + scale.weights * before[name].double()
        gradient[name] = (decayed / scale.gradient).to(tensor.dtype)
    return gradient
