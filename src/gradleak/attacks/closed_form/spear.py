"""Exact batches through ReLU layers: the low rank and the sparsity of a linear layer's gradient."""

import math
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.closed_form.relu_algebra import Factors, factorize, mixing_by_algebra
from gradleak.attacks.closed_form.relu_chain import ReluChain, find_relu_chain
from gradleak.attacks.closed_form.relu_sampling import mixing_by_sampling
from gradleak.attacks.labels import head_residuals, targets_of
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.linalg import singular_values_above_rounding
from gradleak.reconstructions import Reconstruction
from gradleak.seeds import stage_generator
from gradleak.threat import Observation

Search = Literal["auto", "algebra", "sampling"]

# Beyond this batch size sampling is hopeless: the draws double with every example.
_SAMPLING_LIMIT = 12
# Rounding flips a unit here and there; a wrong direction disagrees at a tenth of the units and more.
_CERTAIN = 0.995
_REFINEMENTS = 6


@dataclass(frozen=True, eq=False)
class Separated:
    """A batch separated at one layer.

    Attributes:
        inputs: what entered the layer, `[N, n]`, float64.
        cotangents: derivative of the loss before the ReLU, `[N, m]`, float64.
        agreement: share of units and examples where the inputs activate exactly the units whose derivative is not
            zero; 1 certifies the separation.
        way: one phrase for people.
    """

    inputs: Tensor
    cotangents: Tensor
    agreement: float
    way: str


@dataclass(frozen=True)
class Spear:
    """The attack of `spear`."""

    search: Search
    zero_fraction: float
    max_samples: int
    max_seconds: float | None
    name: str = "spear"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        del progress
        began = time.perf_counter()
        chain = find_relu_chain(observation)
        if isinstance(chain, str):
            return not_applicable(self.name, observation, chain)
        if len(chain.weights) < 2:
            return not_applicable(self.name, observation, f"no linear layer receives the ReLU of {chain.entry.weight}")
        deadline = math.inf if self.max_seconds is None else began + self.max_seconds
        found = self._inputs(observation, chain, seed, deadline)
        if isinstance(found, str):
            return not_applicable(self.name, observation, found)
        variable = chain.entry.variable(found.inputs, observation.task.space.variable_shape)
        message = f"{found.way}; ReLU patterns agree at {found.agreement:.2%} of units"
        return answer(self.name, observation, variable, targets_of(observation, variable), began=began, message=message)

    def _inputs(self, observation: Observation, chain: ReluChain, seed: int, deadline: float) -> Separated | str:
        """Separate at the last hidden layer and go down, or sample at the first one."""
        reason = "the layers above the first do not lead to the outputs through ReLUs alone"
        if self.search != "sampling" and chain.reaches_outputs:
            found = self._at_layer(observation, chain, len(chain.weights) - 2, "algebra", seed, deadline)
            if not isinstance(found, str):
                found = _refine(observation, chain, len(chain.weights) - 2, found, deadline)
                for index in range(len(chain.weights) - 3, -1, -1):
                    below = _layer_below(observation, chain, index, found)
                    found = _refine(observation, chain, index, below, deadline)
                return found
            reason = found
        if self.search == "algebra":
            return reason
        found = self._at_layer(observation, chain, 0, "sampling", seed, deadline)
        return f"{reason}; sampling: {found}" if isinstance(found, str) and self.search == "auto" else found

    def _at_layer(
        self, observation: Observation, chain: ReluChain, index: int, way: Search, seed: int, deadline: float
    ) -> Separated | str:
        """Separate the batch at one hidden layer."""
        name = chain.weights[index]
        weight_gradient, bias_gradient = _gradients(observation, name)
        if bias_gradient is None:
            return f"{name} has no trained bias, which gives the scale"
        if way == "sampling" and (observation.batch_size or 0) > _SAMPLING_LIMIT:
            return f"{observation.batch_size} examples are more than the {_SAMPLING_LIMIT} that sampling can separate"
        rank = singular_values_above_rounding(weight_gradient)
        count = observation.batch_size or rank
        if rank < count or rank >= min(weight_gradient.shape):
            return f"the gradient of {name} has rank {rank} of {min(weight_gradient.shape)}, for {count} examples"
        if time.perf_counter() >= deadline:
            return "the time is spent"
        factors = factorize(weight_gradient, count)
        lengths = factors.left.norm(dim=1)
        tolerance = _tolerance(weight_gradient)
        live = (lengths > 0.01 * tolerance * lengths.max()).nonzero()[:, 0]
        generator = stage_generator(seed, f"attack/{way}")

        def finish(mixing: Tensor, way: str) -> Separated:
            return _separate(observation, name, factors, live, mixing, bias_gradient, tolerance, way)

        if way == "algebra":
            before = chain.activations[index][:, live]
            likely = (before.mean(dim=0) / before.std(dim=0).clamp_min(1e-12)).argsort(descending=True)
            outgoing = _outgoing(observation, chain.weights[index + 1])[live]
            mixing = mixing_by_algebra(factors.left[live], outgoing, likely, tolerance, generator)
            text = f"{count} examples separated by algebra at {name}"
        elif count > _SAMPLING_LIMIT:
            return f"{count} examples are more than the {_SAMPLING_LIMIT} that sampling can separate"
        else:
            mixing, drawn = mixing_by_sampling(
                factors.left[live],
                tolerance,
                generator,
                zero_fraction=self.zero_fraction,
                max_samples=self.max_samples,
                seconds=deadline - time.perf_counter(),
                certify=lambda directions: finish(directions, "").agreement >= _CERTAIN,
            )
            text = f"{count} examples separated at {name} by {drawn} draws"
        return mixing if isinstance(mixing, str) else finish(mixing, text)


def _tolerance(gradient: Tensor) -> float:
    """Relative error of an entry of the factors that rounding of the gradient may cause, with room for conditioning."""
    return max(1e-8, 1e4 * torch.finfo(gradient.dtype).eps)


def _gradients(observation: Observation, weight: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias gradient of a linear layer, in their own precision."""
    gradient = observation.update.in_gradient_direction()
    return gradient[weight], gradient.get(weight.removesuffix("weight") + "bias")


def _value(observation: Observation, name: str) -> Tensor:
    state = observation.state
    return (state.parameters[name] if name in state.parameters else state.constants[name]).double()


def _outgoing(observation: Observation, weight: str) -> Tensor:
    """Weights out of each hidden unit `[m, k]` into the classifier, for derivatives whose sum over classes is zero."""
    value = _value(observation, weight)
    _, bias_gradient = _gradients(observation, weight) if weight in observation.update.tensors else (value, None)
    if bias_gradient is not None and abs(float(bias_gradient.sum())) > 1e-3 * float(bias_gradient.abs().sum()):
        return value.T
    ones = torch.ones((1, len(value)), dtype=torch.float64)
    zero_sum = torch.linalg.svd(ones)[2][1:].T
    return value.T @ zero_sum


def _separate(
    observation: Observation,
    name: str,
    factors: Factors,
    live: Tensor,
    mixing: Tensor,
    bias_gradient: Tensor,
    tolerance: float,
    way: str,
) -> Separated:
    """Refine the directions on the units where each is zero, scale them by the bias gradient, and invert."""
    weight = _value(observation, name)
    bias = _value(observation, name.removesuffix("weight") + "bias")
    rows = factors.left[live] / factors.left[live].norm(dim=1, keepdim=True)
    refined: list[Tensor] = []
    for direction in mixing.T:
        # The generous tolerance of the search would take in small entries; rounding alone leaves far smaller ones.
        size = (rows @ direction).abs()
        zero = rows[size < tolerance * size.max()]
        exact = len(zero) >= len(direction) - 1
        refined.append(torch.linalg.svd(zero, full_matrices=True)[2][-1] if exact else direction)
    mixing = torch.stack(refined, dim=1)
    columns = factors.left @ mixing
    sizes = torch.linalg.lstsq(columns, bias_gradient.double()[:, None], driver="gelsd").solution[:, 0]
    inputs = torch.linalg.solve(mixing * sizes, factors.right)
    cotangents = (columns * sizes).T
    active = inputs @ weight.T + bias > 0
    sent = cotangents.abs() > tolerance * cotangents.abs().amax(dim=1, keepdim=True)
    return Separated(inputs, cotangents, float((active == sent).double().mean()), way)


def _layer_below(observation: Observation, chain: ReluChain, index: int, above: Separated) -> Separated:
    """The same batch one layer further down: its inputs are known above, and with them its ReLU pattern."""
    gradient, _ = _gradients(observation, chain.weights[index])
    # Inactive units come out at the rounding of the separation, far below the tolerance of its search.
    active = above.inputs > 0.01 * _tolerance(gradient) * above.inputs.amax(dim=1, keepdim=True)
    cotangents = active * (above.cotangents @ _value(observation, chain.weights[index + 1]))
    inputs = torch.linalg.lstsq(cotangents.T, gradient.double(), driver="gelsd").solution
    return Separated(inputs, cotangents, above.agreement, above.way)


def _refine(observation: Observation, chain: ReluChain, index: int, found: Separated, deadline: float) -> Separated:
    """Send a layer's inputs forward for sharper derivatives, and these back for sharper inputs, while the error falls.

    Rounding of the update enters the separation amplified; from the derivatives of the forward pass, the inputs follow
    by one well-conditioned least-squares problem.

    Returns:
        The same batch, with inputs that explain the layer's gradient at least as well.
    """
    gradient = _gradients(observation, chain.weights[index])[0].double()
    best, smallest = found, torch.inf
    inputs = found.inputs
    for _ in range(_REFINEMENTS):
        if time.perf_counter() >= deadline:
            break
        cotangents = _derivatives(observation, chain.weights[index:], inputs)
        error = float((gradient - cotangents.T @ inputs).norm())
        if not error < smallest:
            break
        best, smallest = replace(found, inputs=inputs, cotangents=cotangents), error
        inputs = torch.linalg.lstsq(cotangents.T, gradient, driver="gelsd").solution
    return best


def _derivatives(observation: Observation, weights: tuple[str, ...], inputs: Tensor) -> Tensor:
    """Derivative of the loss before the first ReLU `[N, m]`, in float64, for inputs of the first layer `[N, n]`."""

    def layer(name: str, values: Tensor) -> Tensor:
        bias = name.removesuffix("weight") + "bias"
        known = bias in observation.state.parameters or bias in observation.state.constants
        return values @ _value(observation, name).T + (_value(observation, bias) if known else 0.0)

    first = layer(weights[0], inputs).requires_grad_()
    values = first
    with torch.enable_grad():
        for name in weights[1:-1]:
            values = layer(name, torch.relu(values))
        features = torch.relu(values)
        labels = head_residuals(features.detach(), *_gradients(observation, weights[-1])).argmin(dim=1)
        targets = observation.task.target_probabilities(labels).double()
        loss = observation.task.loss(layer(weights[-1], features), targets)
    return torch.autograd.grad(loss, first)[0]


def spear(
    *,
    search: Search = "auto",
    zero_fraction: float = 0.2,
    max_samples: int = 2_000_000,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = 60.0,
) -> Spear:
    """Exact inputs of a batch from the gradient of ReLU layers (Dimitrov et al. 2024), without labels.

    Networks of linear layers and ReLUs up to the outputs are separated by algebra at their last hidden layer and then
    layer by layer downwards; a first layer that leads elsewhere, by sampling.

    Args:
        search: `"algebra"`, `"sampling"` (the published search, at the first layer), or algebra first.
        zero_fraction: sampling keeps directions with at least this share of zeros among the live units.
        max_samples: draws of the sampling search.
        restarts: accepted like by every attack; there is nothing to restart.
        max_evaluations: likewise; one evaluation is used, to compare the result with the update.
        max_seconds: wall time, checked between factorizations, refinements and blocks of draws; None for no limit.

    Returns:
        The attack.
    """
    del restarts, max_evaluations
    return Spear(search, zero_fraction, max_samples, max_seconds)
