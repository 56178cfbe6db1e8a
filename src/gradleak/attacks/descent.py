"""From the classifier down: search the inputs of single layers first, and the image below the deepest one found.

A whole network of saturating layers hides its image from a search: where a unit is saturated with the wrong sign,
nothing pulls it back. One layer at a time does not. The features that enter the classifier follow from the
classifier's own gradient; with them, the derivative of the loss with respect to them is known, and below that point
the gradients of the layers are simple functions of the layers' inputs.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.closed_form.activations import Activation
from gradleak.attacks.closed_form.layers import Affine, Chain, Reshape, read_chain
from gradleak.attacks.closed_form.peeling import Front
from gradleak.attacks.closed_form.pixels import below_front
from gradleak.attacks.layout import Layout
from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.attacks.precision import in_precision
from gradleak.attacks.purse import Purse, least_squares, search
from gradleak.attacks.spectrum import weighted_frequencies
from gradleak.optim.gauss_newton import Residual
from gradleak.optim.stages import Coordinates, unchanged
from gradleak.reconstructions import History, Reconstruction, Snapshot
from gradleak.threat import Observation

# A layer's input counts as found when this share of its equations' squared norm is unexplained.
_FOUND = 1e-9


@dataclass(frozen=True)
class Descent:
    """Settings of `descend`.

    Args:
        feature_evaluations: of the search for the classifier's input.
        layer_products: Jacobian products of the least squares for one layer's input.
        image_evaluations: of the search for the image.
        products: Jacobian products of the least squares that follow the search for the image.
        spectrum: exponent of the weighted frequencies in which images are searched.
    """

    feature_evaluations: int = 400
    layer_products: int = 40000
    image_evaluations: int = 2500
    products: int = 20000
    spectrum: float = 0.7


def descend(
    observation: Observation,
    reconstruction: Reconstruction,
    start: Tensor,
    *,
    settings: Descent | None = None,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
) -> Reconstruction:
    """Search from the classifier down, for the gradient of a single example from a chain of layers.

    Args:
        observation: what the attacker holds.
        reconstruction: the best so far, whose target is used; it is not changed.
        start: first variable `[1, *variable_shape]` of the last search.
        settings: lengths of the searches; None for the defaults.
        max_evaluations: over all searches; None for no limit.
        max_seconds: wall time; None for no limit.

    Returns:
        The new candidate or the given one, whichever reproduces the update better, with the evaluations of both;
        the given one as it is where this search does not apply.
    """
    began = time.perf_counter()
    settings = settings or Descent()
    observation = in_precision(observation, torch.float64)
    chain = read_chain(observation.task, observation.state)
    if observation.batch_size != 1 or observation.update.kind != "gradient" or isinstance(chain, str):
        return reconstruction
    purse = Purse(max_evaluations, math.inf if max_seconds is None else began + max_seconds)
    targets = reconstruction.target_probabilities.double()
    front = _features(observation, chain, targets, settings, purse)
    if front is None:
        seconds = reconstruction.seconds + time.perf_counter() - began
        return replace(reconstruction, evaluations=reconstruction.evaluations + purse.used, seconds=seconds)
    front = _lower(observation, chain, front, settings, purse)
    layout = Layout.of(observation, 1, targets)
    expand, restrict = unchanged, unchanged
    if len(layout.variable_shape) == 4:
        expand, restrict = weighted_frequencies(layout, settings.spectrum)
    residual = _residual(chain, front, observation.update.tensors, lambda point: layout.unpack(expand(point))[0])
    first = restrict(layout.pack(start.double(), targets[:, :0]))
    point, _, moments = search(residual, first, settings.image_evaluations, settings.products, purse)
    variable = layout.unpack(expand(point))[0]
    objective = mismatch(observation, variable, targets)
    return _merged(
        observation,
        reconstruction,
        variable,
        objective,
        (purse.used, time.perf_counter() - began),
        [(m.evaluations, layout.unpack(expand(m.points[0]))[0]) for m in moments],
    )


def _features(observation: Observation, chain: Chain, targets: Tensor, settings: Descent, purse: Purse) -> Front | None:
    """Input of the classifier, and the derivative of the loss with respect to it."""
    head = chain.layers[-1]
    if not isinstance(head, Affine) or head.is_convolution or len(chain.layers) == 1:
        return None
    task, observed = observation.task, observation.update.tensors
    names = [name for name in (head.name, head.bias_name) if name is not None and name in observed]
    if head.name not in names or not bool(observed[head.name].any()):
        return None
    size = torch.cat([observed[name].flatten() for name in names]).norm()

    def loss(outputs: Tensor) -> Tensor:
        return task.loss(outputs, targets)

    def derivative(outputs: Tensor) -> Tensor:
        return torch.func.grad(loss)(outputs)

    def residual(features: Tensor) -> Tensor:
        slope = derivative(head(features[None]))
        parts = {head.name: slope.T @ features[None], head.bias_name: slope[0]}
        return torch.cat([(parts[name] - observed[name]).flatten() for name in names]) / size

    start = torch.zeros(head.input_shape, dtype=targets.dtype, device=targets.device)
    features, value, _ = search(residual, start, settings.feature_evaluations, 0, purse)
    if value > _FOUND:
        return None
    cotangents = derivative(head(features[None])) @ head.weight
    return Front(len(chain.layers) - 1, features[None], cotangents, torch.zeros(1))


def _lower(observation: Observation, chain: Chain, front: Front, settings: Descent, purse: Purse) -> Front:
    """The front moved down through every layer with at least as many outputs as inputs, while the search succeeds."""
    while not purse.empty:
        below = [i for i, layer in enumerate(chain.layers[: front.index]) if isinstance(layer, Affine)]
        index = below[-1] if below else 0
        layer = chain.layers[index]
        if index == 0 or not isinstance(layer, Affine) or math.prod(layer.input_shape) > _equations(layer):
            return front
        section = Chain(
            chain.layers[index : front.index],
            chain.shapes[index : front.index],
            torch.zeros_like(chain.mean),
            torch.ones_like(chain.std),
        )
        upper = replace(front, index=len(section.layers))
        shape = (1, *layer.input_shape)
        residual = _residual(section, upper, observation.update.tensors, lambda point, shape=shape: point.view(shape))
        start = torch.zeros(math.prod(shape), dtype=front.values.dtype, device=front.values.device)
        point, value = least_squares(residual, start, settings.layer_products, purse, 0.4)
        if value > _FOUND:
            return front
        values = point.view(shape)
        front = Front(index, values, torch.func.vjp(section, values)[1](front.cotangents)[0], torch.zeros(1))
    return front


def _equations(layer: Affine) -> int:
    """Equations on the inputs of a layer whose outputs and their cotangents are known."""
    return math.prod(layer.output_shape) + layer.weight.numel()


def _before_activation(chain: Chain, front: Front) -> tuple[Front, Callable[[Tensor], Tensor]]:
    """The front moved below reshapes and the activation on top, whose cotangents no longer depend on candidates."""
    while front.index and isinstance(chain.layers[front.index - 1], Reshape):
        shape = (len(front.values), *chain.shapes[front.index - 1])
        front = Front(front.index - 1, front.values.reshape(shape), front.cotangents.reshape(shape), front.std)
    layer = chain.layers[front.index - 1] if front.index else None
    if not isinstance(layer, Activation):
        return front, unchanged
    return Front(front.index - 1, front.values, front.cotangents * layer.slope(front.values), front.std), layer


def _residual(chain: Chain, front: Front, observed: Mapping[str, Tensor], variable: Coordinates) -> Residual:
    """Misfit of the layers below a front: of its values, and of each layer's gradient, relative to their norms."""
    layers = [layer for layer in chain.layers[: front.index] if isinstance(layer, Affine)]
    groups = [[n for n in (layer.name, layer.bias_name) if n is not None and n in observed] for layer in layers]
    groups = [names for names in groups if any(bool(observed[name].any()) for name in names)]
    sizes = [torch.cat([observed[name].flatten() for name in names]).norm() for names in groups]
    scale = front.values.norm()

    below, activation = _before_activation(chain, front)

    def residual(point: Tensor) -> Tensor:
        values, gradients = below_front(chain, below, variable(point))
        parts = [(activation(values).flatten() - front.values.flatten()) / scale]
        for names, size in zip(groups, sizes, strict=True):
            parts += [(gradients[name] - observed[name]).flatten() / size for name in names]
        return torch.cat(parts)

    return residual


def _merged(
    observation: Observation,
    reconstruction: Reconstruction,
    variable: Tensor,
    objective: float,
    spent: tuple[int, float],
    candidates: list[tuple[int, Tensor]],
) -> Reconstruction:
    """The better of two candidates, with the course of both."""
    used, seconds = reconstruction.evaluations + spent[0], reconstruction.seconds + spent[1]
    history, space = reconstruction.history, observation.task.space
    better = objective < reconstruction.objective
    snapshots = tuple(
        Snapshot(reconstruction.evaluations + count, space.decode(candidate)) for count, candidate in candidates
    )
    reconstruction = replace(
        reconstruction,
        evaluations=used,
        seconds=seconds,
        history=History(
            (*history.evaluations, used),
            (*history.seconds, seconds),
            (*history.objective, objective),
            (*history.snapshots, *snapshots) if better else history.snapshots,
        ),
    )
    if not better:
        return reconstruction
    return replace(
        reconstruction,
        inputs=space.decode(variable),
        objective=objective,
        status="converged" if objective <= REPRODUCED else reconstruction.status,
        variable=variable,
        message=f"the update is reproduced to a relative squared error of {objective:.1e}",
    )
