"""Gradient matching with first derivatives only, for models whose gradient autograd cannot differentiate again.

With u the derivative of the objective by the simulated update g, the objective's gradient by the input is `J^T u`, and

    J^T u = grad_x <g(x), u> = d/de grad_x L(x, w + e u) at e = 0        (Pearlmutter 1994)

so two input gradients, at `w + e u` and `w - e u`, give it: no derivative is taken twice. With F one forward pass this
costs 3 F for the update and 2 * 2 F for the difference, as much as the arithmetic of double backward. The identity
holds where g is the derivative of L; behind a straight-through estimator it is not.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradleak.attacks.layout import Layout
from gradleak.attacks.objectives import Objective
from gradleak.bottleneck import auxiliary_loss
from gradleak.clients import Gradient
from gradleak.clients.stateless import stateless_copy
from gradleak.optim import Energy, value_and_gradient
from gradleak.optim.minimize import Evaluate
from gradleak.threat import Observation, simulator

STEP = 1e-5
"""Along the unit direction in the weights, for float64: its square times the third derivative and 1e-16 over it are
both small, and it crosses few kinks. At float32, 1e-3 is best, and nothing gets below a relative error of 1e-5."""

Terms = Callable[[Tensor, Tensor], Tensor]
"""Priors of one candidate: `terms(variable, target_probabilities) -> scalar`."""


def problem(observation: Observation) -> str | None:
    """Why the route is closed for this observation, or None.

    Args:
        observation: what the attacker holds.

    Returns:
        A sentence.
    """
    if observation.update.kind != "gradient" or not isinstance(observation.client, Gradient | None):
        return "finite differences of the input gradient stand for one gradient, and the update is another client's"
    client = observation.client
    if client is not None and client.autocast is not None:
        return f"arithmetic in {client.autocast} rounds away the differences that the derivative is made of"
    if client is not None and client.micro_batch is not None and client.mode == "train":
        return "the input gradient is taken of the whole batch, and BatchNorm saw micro-batches"
    return None


def finite_difference_energy(
    observation: Observation,
    layout: Layout,
    objective: Objective,
    *,
    observed: Mapping[str, Tensor],
    terms: Terms | None = None,
    step: float = STEP,
) -> Energy:
    """An objective of one flat candidate whose first derivative comes from central differences.

    Args:
        observation: what the attacker holds; its client is a `Gradient`, or withheld.
        layout: of the candidates.
        objective: any that is differentiable by the simulated update.
        observed: the update in the model's precision.
        terms: priors, differentiated by autograd; None for none.
        step: length of the move in the weights, in their units; positive.

    Returns:
        A function from `[D]` to a scalar with the objective's value. Differentiating it once gives the objective's
        gradient, by 7 forward passes' worth of work that is done when it is called; not for use under `vmap`, nor to be
        differentiated twice.
    """
    simulate = simulator(observation)
    input_gradient = _input_gradient(observation, layout)

    def energy(candidate: Tensor) -> Tensor:
        point = candidate.detach()
        with torch.no_grad():
            simulated = simulate(*layout.unpack(point))
        # Buffers that are sent too are no function of the weights' gradient.
        leaves = {name: simulated[name].detach().requires_grad_() for name in observation.state.parameters}
        with torch.enable_grad():
            value = objective(leaves, observed)
            cotangents = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        length = torch.stack([part.square().sum() for part in cotangents]).sum().sqrt()
        # Where the objective is flat there is no direction, and no division by zero either.
        unit = [part / torch.where(length > 0, length, 1) for part in cotangents]
        after, before = input_gradient(point, unit, step), input_gradient(point, unit, -step)
        gradient = (after - before) * (length / (2 * step))
        # Worth nothing, and with the gradient as its derivative.
        carrier = (gradient.detach() * (candidate - point)).sum()
        value = value.detach() + carrier
        return value if terms is None else value + terms(*layout.unpack(candidate))

    return energy


def one_by_one(energy: Energy) -> Evaluate:
    """Values and gradients of several restarts in turn, for an energy that `vmap` cannot transform.

    Args:
        energy: the function of one point.

    Returns:
        A function from points `[restarts, D]` to values `[restarts]` and gradients `[restarts, D]`.
    """
    evaluate_one = value_and_gradient(energy)

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [evaluate_one(point[None]) for point in points]
        return torch.cat([value for value, _ in pairs]), torch.cat([gradient for _, gradient in pairs])

    return evaluate


def _input_gradient(observation: Observation, layout: Layout) -> Callable[[Tensor, Sequence[Tensor], float], Tensor]:
    """From a point, a direction in the weights and a step to the loss's gradient by the point, at moved weights."""
    task, state = observation.task, observation.state
    client = observation.client if isinstance(observation.client, Gradient) else Gradient(dropout="off")
    module = stateless_copy(
        task.model, mode=client.mode, dropout=client.dropout, dropout_seed=client.dropout_seed
    ).module
    known = {name for name, _ in [*module.named_buffers(), *module.named_parameters()]}
    constants = {name: value for name, value in state.constants.items() if name in known}

    def input_gradient(point: Tensor, direction: Sequence[Tensor], step: float) -> Tensor:
        moved = {
            name: value + step * part for (name, value), part in zip(state.parameters.items(), direction, strict=True)
        }
        leaf = point.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            variable, targets = layout.unpack(leaf)
            loss = task.loss(task.space.forward(module, {**moved, **constants}, variable), targets)
            added = auxiliary_loss(module)
            loss = loss if added is None else loss + added
            return torch.autograd.grad(loss, leaf, materialize_grads=True)[0]

    return input_gradient
