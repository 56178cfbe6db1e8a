"""Layer recursion: the input of a single example, from the last layer of a sequential network back to the first.

R-GAP (Zhu and Blaschko, ICLR 2021) for any loss, stride, padding and invertible activation.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.closed_form.layers import Affine, Chain, read_chain
from gradleak.attacks.closed_form.peeling import Front, peel
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import soft_cross_entropy
from gradleak.threat import Observation

# A recovered row of target probabilities this close to one class is that class.
_HARD_TARGET = 1e-3


@dataclass(frozen=True, eq=False)
class SingleExample:
    """What the gradient of the last layer says about a single example; nothing in it is approximate.

    Attributes:
        features: what enters the last layer, `[D]`.
        residual: derivative of the loss with respect to the outputs, `[C]`.
        precision: relative rounding or noise of the update's entries, measured by how far the weight gradient is
            from the outer product of the two, at least the rounding of its type.
    """

    features: Tensor
    residual: Tensor
    precision: float


def single_example(weight_gradient: Tensor, bias_gradient: Tensor) -> SingleExample:
    """Features and residual of one example from the gradient of the last layer.

    Args:
        weight_gradient: `[C, D]`, in the type in which it was shared.
        bias_gradient: `[C]`, not all zero.

    Returns:
        Both, in float64.
    """
    rows, residual = weight_gradient.double(), bias_gradient.double()
    features = rows.T @ residual / residual.square().sum()
    misfit = rows - torch.outer(residual, features)
    relative = float(misfit.norm() / rows.norm().clamp(min=1e-300))
    return SingleExample(features, residual, max(relative, torch.finfo(weight_gradient.dtype).eps / 2))


def target_row(observation: Observation, outputs: Tensor, residual: Tensor) -> Tensor:
    """The target of a single example: `softmax(outputs) - residual` under cross-entropy.

    Args:
        observation: what the attacker holds; given targets are used.
        outputs: of the model, `[C]`.
        residual: derivative of the loss with respect to them.

    Returns:
        A class index `[1]`, or probabilities `[1, C]` of a soft target.
    """
    if observation.targets is not None:
        return observation.targets
    row = torch.softmax(outputs, dim=0) - residual
    label = residual.argmin()[None]
    soft = observation.task.loss is soft_cross_entropy and float(row.min()) > -_HARD_TARGET
    if not soft or float(row.max()) > 1 - _HARD_TARGET:
        return label
    row = row.clamp(min=0)
    return (row / row.sum())[None]


@dataclass(frozen=True)
class LayerRecursion:
    """The attack of `layer_recursion`."""

    name: str = "layer_recursion"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. Nothing in it is random."""
        del seed, progress
        began = time.perf_counter()
        prepared = _prepare(observation)
        if isinstance(prepared, str):
            return not_applicable(self.name, observation, prepared)
        chain, head, bias = prepared
        update = observation.update.in_gradient_direction()
        example = single_example(update[head.name], update[bias])
        if example.precision > _RANK_ONE:
            return not_applicable(
                self.name,
                observation,
                f"the gradient of {head.name} is {example.precision:.0e} of its norm away from rank 1, which one "
                "example leaves",
            )
        with torch.no_grad():
            outputs = head(example.features[None])[0]
            std = example.precision * float(example.features.square().mean().sqrt())
            cotangents = (example.residual @ head.weight)[None]
            front = Front(
                len(chain.layers) - 1, example.features[None], cotangents, torch.tensor([std], dtype=torch.float64)
            )
            gradient = {name: tensor.double() for name, tensor in update.items()}
            peeled = peel(chain, gradient, front, precision=example.precision)
        if peeled.obstacle:
            return not_applicable(self.name, observation, peeled.obstacle)
        variable = chain.denormalize(peeled.front.values)
        targets = target_row(observation, outputs, example.residual)
        counts = "; ".join(map(str, peeled.counts)) or "the last layer receives the input itself"
        return answer(self.name, observation, variable, targets, began=began, message=counts)


# Noise of this relative size leaves nothing of the deeper layers.
_RANK_ONE = 0.1


def _prepare(observation: Observation) -> tuple[Chain, Affine, str] | str:
    """The chain, its last layer and the name of that layer's bias, or why the attack does not apply."""
    if observation.batch_size not in {None, 1}:
        return f"one residual belongs to one example, and the batch has {observation.batch_size}"
    if observation.update.kind != "gradient":
        return "a weight delta holds the gradient up to an unknown scale and number of steps"
    chain = read_chain(observation.task, observation.state)
    if isinstance(chain, str):
        return f"the model is not a chain of layers: {chain}"
    head = chain.layers[-1]
    if not isinstance(head, Affine) or head.is_convolution:
        return "the outputs do not come from a linear layer"
    update = observation.update.tensors
    if head.bias_name is None:
        return f"{head.name} has no trained bias, whose gradient is the residual"
    if not bool(update[head.bias_name].any()):
        return f"every entry of {head.bias_name} is zero: the example leaves no residual"
    if not all(math.isfinite(float(tensor.double().sum())) for tensor in update.values()):
        return "the update holds NaN or infinity"
    return chain, head, head.bias_name


def layer_recursion(
    *, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None
) -> LayerRecursion:
    """Exact input of a single example from a sequential network with invertible activations.

    Convolutions and linear layers with sigmoid, tanh, softplus, leaky ReLU or ELU; ReLU where enough units are
    active. It does not apply where a layer has more unknown inputs than independent equations, and says how many.

    Args:
        restarts: accepted like by every attack; there is nothing to restart.
        max_evaluations: likewise; one evaluation is used, to compare the result with the update.
        max_seconds: likewise; the work is a few hundred small convolutions for each layer.

    Returns:
        The attack.
    """
    del restarts, max_evaluations, max_seconds
    return LayerRecursion()
