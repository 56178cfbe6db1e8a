"""Layer recursion: the input of a single example, from the last layer of a sequential network back to the first.

R-GAP (Zhu and Blaschko, ICLR 2021) for any loss, stride, padding and invertible activation.
"""

import math
import time
from dataclasses import dataclass

import torch

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.closed_form.biasless_head import examples_without_bias
from gradleak.attacks.closed_form.layers import Affine, Chain, read_chain
from gradleak.attacks.closed_form.peeling import Front, peel
from gradleak.attacks.closed_form.single import SingleExample, single_example, target_row
from gradleak.attacks.labels import LossForm, find_loss_form
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.reconstructions import Reconstruction
from gradleak.threat import Observation


@dataclass(frozen=True)
class LayerRecursion:
    """The attack of `layer_recursion`."""

    max_seconds: float | None = None
    name: str = "layer_recursion"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. Nothing in it is random."""
        del seed, progress
        began = time.perf_counter()
        prepared = _prepare(observation)
        if isinstance(prepared, str):
            return not_applicable(self.name, observation, prepared)
        chain, head, examples = prepared
        reasons: list[str] = []
        best: Reconstruction | None = None
        for example in examples:
            if example.precision > _RANK_ONE:
                reasons.append(
                    f"the gradient of {head.name} is {example.precision:.0e} of its norm away from rank 1, which one "
                    "example leaves"
                )
                continue
            found = self._follow(observation, chain, head, example, began)
            if isinstance(found, str):
                reasons.append(found)
            elif best is None or found.objective < best.objective:
                best = found
            if best is not None and best.status == "converged":
                break
        return best or not_applicable(self.name, observation, reasons[0])

    def _follow(
        self, observation: Observation, chain: Chain, head: Affine, example: SingleExample, began: float
    ) -> Reconstruction | str:
        """Peel below what one example would be, or say why that ends."""
        update = observation.update.in_gradient_direction()
        with torch.no_grad():
            outputs = head(example.features[None])[0]
            std = example.precision * float(example.features.square().mean().sqrt())
            cotangents = (example.residual @ head.weight)[None]
            front = Front(
                len(chain.layers) - 1, example.features[None], cotangents, torch.tensor([std], dtype=torch.float64)
            )
            gradient = {name: tensor.double() for name, tensor in update.items()}
            deadline = math.inf if self.max_seconds is None else began + self.max_seconds
            peeled = peel(chain, gradient, front, precision=example.precision, deadline=deadline)
        if peeled.obstacle:
            return peeled.obstacle
        variable = chain.denormalize(peeled.front.values)
        targets = target_row(observation, outputs, example.residual)
        counts = "; ".join(map(str, peeled.counts)) or "the last layer receives the input itself"
        return answer(self.name, observation, variable, targets, began=began, message=counts)


# Noise of this relative size leaves nothing of the deeper layers.
_RANK_ONE = 0.1


def _prepare(observation: Observation) -> tuple[Chain, Affine, list[SingleExample]] | str:
    """The chain, its last layer and what the example may be there, or why the attack does not apply."""
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
    if not all(math.isfinite(float(tensor.double().sum())) for tensor in update.values()):
        return "the update holds NaN or infinity"
    if not bool(update[head.bias_name or head.name].any()):
        return f"every entry of {head.bias_name or head.name} is zero: the example leaves no residual"
    if head.bias_name is not None:
        return chain, head, [single_example(update[head.name], update[head.bias_name])]
    form = find_loss_form(observation.task)
    if isinstance(form, str) or not _has_plain_targets(form):
        return f"{head.name} has no trained bias, whose gradient is the residual, and the loss is no cross-entropy"
    examples = examples_without_bias(update[head.name], head.weight, head.bias, form.weights)
    if not examples:
        return f"{head.name} has no trained bias, and no scale of its gradient meets the softmax"
    return chain, head, examples


def _has_plain_targets(form: LossForm) -> bool:
    """Whether the loss pulls towards one class, without smoothing."""
    return bool(torch.allclose(form.targets, torch.eye(len(form.weights), dtype=torch.float64), atol=1e-5))


def layer_recursion(
    *, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None
) -> LayerRecursion:
    """Exact input of a single example from a sequential network with invertible activations.

    Convolutions and linear layers with sigmoid, tanh, softplus, leaky ReLU or ELU; ReLU where enough units are
    active. The last layer may lack a bias under a softmax cross-entropy; with two classes that is R-GAP's binary
    logistic head, and both labels are tried. It does not apply where a layer has more unknown inputs than independent
    equations, and says how many.

    Args:
        restarts: accepted like by every attack; there is nothing to restart.
        max_evaluations: likewise; one evaluation is used, to compare the result with the update.
        max_seconds: wall time; None for no limit. The work is a few hundred small convolutions for each layer.

    Returns:
        The attack.
    """
    del restarts, max_evaluations
    return LayerRecursion(max_seconds)
