"""Gradient inversion for networks with ReLU: peel what is exactly determined, search the rest."""

import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.closed_form.layers import Chain, read_chain
from gradleak.attacks.image_search import counted_targets, gray_starts, image_search_problem
from gradleak.attacks.layout import Layout
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.relu.convex import LARGEST_IMAGE, Splitting, least_variation, linear_facts
from gradleak.attacks.relu.descent import Descent, descend
from gradleak.attacks.relu.mask_derivative import MaskDerivative
from gradleak.attacks.relu.peeled import peeled_energy
from gradleak.attacks.relu.stack import Front, Stack, peel_stack, read_stack
from gradleak.attacks.relu.whole import whole_energy
from gradleak.attacks.second_derivative import no_second_derivative
from gradleak.clients import Gradient
from gradleak.optim import Energy
from gradleak.reconstructions import History, Reconstruction, Snapshot
from gradleak.tasks import ImageSpace
from gradleak.threat import Observation

# Evaluations of each restart when neither limit is given.
_EVALUATIONS = 1_500
# The convex end takes about as long as this many peelings, of which the first eight cannot be interrupted.
_PEELINGS = 12


@dataclass(frozen=True, eq=False)
class _Plan:
    """How one observation is attacked, and why."""

    targets: Tensor
    reason: str
    chain: Chain | None = None
    stack: Stack | None = None
    front: Front | None = None


@dataclass(frozen=True)
class ReluInversion:
    """The attack of `relu_inversion`.

    Args:
        restarts: independent starts of a search.
        max_evaluations: over all restarts together, or None.
        max_seconds: wall time, or None.
        peel: whether exact peeling is tried.
        peeled_derivative: of the masks, where a part of the network is peeled.
        whole_derivative: of the masks, where the whole step is simulated.
        peeled_descent: of the search where a part of the network is peeled.
        whole_descent: of the search over the whole step.
        splitting: of the convex end.
        snapshots: how many candidates to keep for pictures.
        name: in tables.
    """

    restarts: int = 1
    max_evaluations: int | None = None
    max_seconds: float | None = None
    peel: bool = True
    peeled_derivative: MaskDerivative = field(default_factory=lambda: MaskDerivative(beta=2.0))
    whole_derivative: MaskDerivative = field(default_factory=lambda: MaskDerivative(beta=5.0, pool_beta=30.0))
    peeled_descent: Descent = field(default_factory=lambda: Descent(first_weight=0.1, last_weight=0.01))
    whole_descent: Descent = field(default_factory=lambda: Descent(first_weight=0.1, last_weight=0.003))
    splitting: Splitting = field(default_factory=Splitting)
    snapshots: int = 24
    name: str = "relu_inversion"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        plan = self._plan(observation, seed)
        if isinstance(plan, str):
            return not_applicable(self.name, observation, plan)
        if plan.front is not None and plan.front.position == 0:
            peeling = time.perf_counter() - began
            short = self.max_seconds is not None and self.max_seconds < (1 + _PEELINGS) * peeling
            found = None if short else self._convex(observation, plan, began)
            if found is not None:
                return found
            plan = _Plan(plan.targets, f"{plan.reason}; whole network: the time is too short for the convex end")
        return self._search(observation, plan, began, seed, progress)

    def _plan(self, observation: Observation, seed: int) -> _Plan | str:
        """Targets and what can be peeled, or why the attack does not apply."""
        if (problem := image_search_problem(observation)) is not None:
            return problem
        targets = counted_targets(observation, seed)
        if isinstance(targets, str):
            return targets
        layout = Layout.of(observation, len(targets), targets)
        if (lacking := no_second_derivative(observation, layout)) is not None:
            return lacking
        if not self.peel:
            return _Plan(targets, "whole network: peeling was switched off")
        peeled = _peel(observation)
        if isinstance(peeled, str):
            return _Plan(targets, f"whole network: {peeled}")
        chain, stack, front = peeled
        return _Plan(targets, f"peeled: {'; '.join(front.account) or 'features'}", chain, stack, front)

    def _convex(self, observation: Observation, plan: _Plan, began: float) -> Reconstruction | None:
        """The whole network was peeled down to its first layer; None if the time does not suffice."""
        assert plan.chain is not None
        assert plan.stack is not None
        assert plan.front is not None
        layer, space = plan.stack.convolutions[0], observation.task.space
        assert isinstance(space, ImageSpace)
        channels = torch.ones(space.shape[0], dtype=torch.float64)
        scale = channels / plan.chain.std.flatten()
        gradient = observation.update.in_gradient_direction()[layer.name].double()
        facts = linear_facts(layer, plan.front, gradient, scale, -plan.chain.mean.flatten() * scale)
        settings = self.splitting
        if self.max_evaluations is not None:
            settings = replace(settings, sweeps=max(1, min(settings.sweeps, self.max_evaluations - 1)))
        deadline = math.inf if self.max_seconds is None else began + self.max_seconds
        ended = least_variation(facts, space.shape, space.bounds, settings, deadline=deadline)
        if ended is None:
            return None
        image, sweeps = ended
        message = (
            f"{plan.reason}; convex end: {facts.count} equations and {len(facts.limits)} inequalities for "
            f"{image.numel()} pixels, {sweeps} sweeps"
        )
        variable = image[None].to(observation.task.device, observation.task.dtype)
        return answer(self.name, observation, variable, plan.targets, began=began, evaluations=sweeps, message=message)

    def _search(
        self, observation: Observation, plan: _Plan, began: float, seed: int, progress: Progress | None
    ) -> Reconstruction:
        """Descend on the peeled objective or on that of the whole network."""
        energy, settings = self._energy(observation, plan)
        task = observation.task
        assert isinstance(task.space, ImageSpace)
        shape = (len(plan.targets), *task.space.shape)
        minimum = descend(
            energy,
            gray_starts(shape, task.space.bounds, self.restarts, seed).to(task.device, task.dtype),
            shape,
            settings=settings,
            bounds=task.space.bounds,
            evaluations=self._evaluations(),
            seconds=None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began),
            progress=progress,
            snapshots=self.snapshots,
        )
        best = int(minimum.values.argmin())
        evaluations = minimum.evaluations * self.restarts
        message = f"{plan.reason}; searched with a derivative for the masks"
        result = answer(
            self.name,
            observation,
            minimum.points[best].view(shape),
            plan.targets,
            began=began,
            evaluations=evaluations,
            message=message,
        )
        history = History(
            tuple(range(1, minimum.evaluations + 1)),
            minimum.times,
            tuple(minimum.trace[:, best].tolist()),
            tuple(
                Snapshot(moment.evaluations, task.space.decode(moment.points[best].view(shape)))
                for moment in minimum.moments
            ),
        )
        return replace(result, history=history)

    def _energy(self, observation: Observation, plan: _Plan) -> tuple[Energy, Descent]:
        """The objective of the plan, and how to descend on it."""
        if plan.front is None or plan.stack is None or plan.chain is None:
            return whole_energy(observation, plan.targets, self.whole_derivative), self.whole_descent
        task = observation.task
        observed = {n: tensor.to(task.dtype) for n, tensor in observation.update.in_gradient_direction().items()}
        return (
            peeled_energy(plan.chain, plan.stack, plan.front, observed, self.peeled_derivative),
            self.peeled_descent,
        )

    def _evaluations(self) -> int:
        """Of each restart; one evaluation is kept for the final comparison."""
        if self.max_evaluations is not None:
            return max(1, (self.max_evaluations - 1) // self.restarts)
        return _EVALUATIONS if self.max_seconds is None else 10**9


def _peel(observation: Observation) -> tuple[Chain, Stack, Front] | str:
    """Everything that is exactly determined from the classifier down, or why nothing is."""
    if observation.defenses:
        return "peeling takes an update at its word, and this one was defended"
    if observation.batch_size != 1:
        return f"peeling is for one example, and the batch has {observation.batch_size}"
    if observation.update.kind != "gradient" or not isinstance(observation.client, Gradient | None):
        return "peeling needs a gradient, and the update is that of local training"
    chain = read_chain(observation.task, observation.state)
    if isinstance(chain, str):
        return f"it is not a chain of known layers: {chain}"
    stack = read_stack(chain)
    if isinstance(stack, str):
        return stack
    update = observation.update.in_gradient_direction()
    rounding = observation.update.rounding
    front = peel_stack(stack, {name: tensor.double() for name, tensor in update.items()}, rounding)
    if isinstance(front, str):
        return front
    pixels = math.prod(stack.convolutions[0].input_shape)
    if front.position == 0 and pixels > LARGEST_IMAGE:
        return f"the convex end would need a factorization of order {pixels}"
    return chain, stack, front


def relu_inversion(
    *,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    peel: bool = True,
    snapshots: int = 24,
) -> ReluInversion:
    """Invert the gradient of a network with ReLU, with labels given or recovered; its message says what it did.

    A single example behind convolutions with ReLU and a linear classifier is peeled from the classifier down, as far
    as its layers are determined. If that reaches the first layer, what is left is convex; otherwise the rest is
    searched. Other networks, and batches, are searched as a whole. Every search uses a derivative for the masks of
    ReLU and max-pooling in its second backward pass (see `MaskDerivative`) and a falling total variation.

    Args:
        restarts: independent starts of a search; the one with the lowest objective is returned.
        max_evaluations: over all restarts together, sweeps of the convex end counted alike; None for 1,500 a restart
            if `max_seconds` is None too, else no limit.
        max_seconds: wall time, to which the schedules adapt; None for no limit.
        peel: whether exact peeling is tried.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    return ReluInversion(restarts, max_evaluations, max_seconds, peel, snapshots=snapshots)
