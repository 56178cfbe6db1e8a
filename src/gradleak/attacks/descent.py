"""From the classifier down: search the inputs of single layers first, and the image below the deepest one found.

A whole network of saturating layers hides its image from a search: where a unit is saturated with the wrong sign,
nothing pulls it back. One layer at a time does not. The features that enter the classifier follow from the
classifier's own gradient; with them, the derivative of the loss with respect to them is known, and below that point
the gradients of the layers are simple functions of the layers' inputs.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.closed_form.layers import Affine, Chain, read_chain
from gradleak.attacks.closed_form.peeling import Front
from gradleak.attacks.closed_form.pixels import below_front
from gradleak.attacks.layout import Layout
from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.attacks.precision import in_precision
from gradleak.attacks.spectrum import weighted_frequencies
from gradleak.optim import Budget, LevenbergMarquardt, Limits, Moment, WolfeLBFGS, minimize, value_and_gradient
from gradleak.optim.gauss_newton import Residual
from gradleak.optim.stages import Coordinates, unchanged
from gradleak.reconstructions import History, Reconstruction, Snapshot
from gradleak.threat import Observation

# A layer's input counts as found when this share of its equations' squared norm is unexplained.
_FOUND = 1e-9
# Up to this many unknowns one dense Jacobian takes less than a second; it resolves saturated layers best.
_DENSE = 1000
# Far below what float32 updates determine.
_EXPLAINED = 1e-16


@dataclass
class _Purse:
    """What is left of the budget, and what was spent."""

    evaluations: int | None
    ends: float
    used: int = 0

    def allowed(self, wanted: int) -> int:
        """Evaluations that may be spent now, at most `wanted`."""
        return wanted if self.evaluations is None else max(0, min(wanted, self.evaluations - self.used))

    def seconds(self, share: float = 1.0) -> float | None:
        """Seconds that may be spent now."""
        return None if math.isinf(self.ends) else max(0.0, share * (self.ends - time.perf_counter()))

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return self.allowed(1) == 0 or self.seconds() == 0


@dataclass(frozen=True)
class Descent:
    """Settings of `descend`.

    Args:
        feature_evaluations: of the search for the classifier's input.
        layer_products: Jacobian products of the least squares for one layer's input.
        image_evaluations: of the search for the image.
        products: Jacobian products of the least squares that follow these two searches.
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
    purse = _Purse(max_evaluations, math.inf if max_seconds is None else began + max_seconds)
    targets = reconstruction.target_probabilities.double()
    front = _features(observation, chain, targets, settings, purse)
    if front is None:
        return reconstruction
    front = _lower(observation, chain, front, settings, purse)
    layout = Layout.of(observation, 1, targets)
    expand, restrict = unchanged, unchanged
    if len(layout.variable_shape) == 4:
        expand, restrict = weighted_frequencies(layout, settings.spectrum)
    residual = _residual(chain, front, observation.update.tensors, lambda point: layout.unpack(expand(point))[0])
    first = restrict(layout.pack(start.double(), targets[:, :0]))
    point, _, moments = _search(residual, first, settings.image_evaluations, settings.products, purse)
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


def _features(
    observation: Observation, chain: Chain, targets: Tensor, settings: Descent, purse: _Purse
) -> Front | None:
    """Input of the classifier, and the derivative of the loss with respect to it."""
    head = chain.layers[-1]
    if not isinstance(head, Affine) or head.is_convolution or len(chain.layers) == 1:
        return None
    task, observed = observation.task, observation.update.tensors
    names = [name for name in (head.name, head.bias_name) if name is not None]
    size = torch.cat([observed[name].flatten() for name in names]).norm()

    def derivative(outputs: Tensor) -> Tensor:
        return torch.func.grad(lambda z: task.loss(z, targets))(outputs)

    def residual(features: Tensor) -> Tensor:
        slope = derivative(head(features[None]))
        parts = {head.name: slope.T @ features[None], head.bias_name: slope[0]}
        return torch.cat([(parts[name] - observed[name]).flatten() for name in names]) / size

    start = torch.zeros(head.input_shape, dtype=targets.dtype, device=targets.device)
    features, value, _ = _search(residual, start, settings.feature_evaluations, settings.products, purse)
    if value > _FOUND:
        return None
    cotangents = derivative(head(features[None])) @ head.weight
    return Front(len(chain.layers) - 1, features[None], cotangents, 0.0)


def _lower(observation: Observation, chain: Chain, front: Front, settings: Descent, purse: _Purse) -> Front:
    """The front moved down through every layer with at least as many outputs as inputs, while the search succeeds."""
    while not purse.empty:
        below = [i for i, layer in enumerate(chain.layers[: front.index]) if isinstance(layer, Affine)]
        index = below[-1] if below else 0
        layer = chain.layers[index]
        if index == 0 or not isinstance(layer, Affine) or math.prod(layer.input_shape) > math.prod(layer.output_shape):
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
        point, value = _least_squares(residual, start, settings.layer_products, purse, 0.4)
        if value > _FOUND:
            return front
        values = point.view(shape)
        front = Front(index, values, torch.func.vjp(section, values)[1](front.cotangents)[0], 0.0)
    return front


def _residual(chain: Chain, front: Front, observed: Mapping[str, Tensor], variable: Coordinates) -> Residual:
    """Misfit of the layers below a front: of its values, and of each layer's gradient, relative to their norms."""
    layers = [layer for layer in chain.layers[: front.index] if isinstance(layer, Affine)]
    groups = [[n for n in (layer.name, layer.bias_name) if n is not None and n in observed] for layer in layers]
    sizes = [torch.cat([observed[name].flatten() for name in names]).norm() for names in groups]
    scale = front.values.norm()

    def residual(point: Tensor) -> Tensor:
        values, gradients = below_front(chain, front, variable(point))
        parts = [(values - front.values).flatten() / scale]
        for names, size in zip(groups, sizes, strict=True):
            parts += [(gradients[name] - observed[name]).flatten() / size for name in names]
        return torch.cat(parts)

    return residual


def _search(
    residual: Residual, start: Tensor, evaluations: int, products: int, purse: _Purse
) -> tuple[Tensor, float, tuple[Moment, ...]]:
    """L-BFGS, then Levenberg-Marquardt; returns the point, its sum of squares, and moments of the first."""
    if purse.empty:
        return start, math.inf, ()
    before = purse.used
    ended = minimize(
        value_and_gradient(lambda point: residual(point).square().sum()),
        start[None],
        optimizer=WolfeLBFGS(),
        budget=Budget(evaluations=purse.allowed(evaluations), seconds=purse.seconds(), target=_EXPLAINED),
        moments=24,
    )
    purse.used += ended.evaluations
    moments = tuple(replace(moment, evaluations=before + moment.evaluations) for moment in ended.moments)
    if purse.empty:
        return ended.points[0], float(ended.values[0]), moments
    point, value = _least_squares(residual, ended.points[0], products, purse)
    return point, value, moments


def _least_squares(
    residual: Residual, start: Tensor, products: int, purse: _Purse, share: float = 1.0
) -> tuple[Tensor, float]:
    """Levenberg-Marquardt within a share of the seconds left; returns the point and its sum of squares."""
    limits = Limits(products=purse.allowed(products), seconds=purse.seconds(share), target=_EXPLAINED)
    # A dense Jacobian cannot be interrupted, and costs one product for each unknown.
    solver = LevenbergMarquardt(dense_below=min(_DENSE, purse.allowed(_DENSE)), steps=100, inner_products=300)
    ended = solver.minimize(residual, start, limits)
    purse.used += ended.evaluations + ended.products
    return ended.point, ended.value


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
