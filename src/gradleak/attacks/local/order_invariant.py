"""The attack on federated averaging with an unknown order of the batches (Dimitrov et al., TMLR 2022)."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gradleak.attacks.local.door import Facts, facts_for_simulation
from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.attacks.priors import mean_absolute_differences
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.clients.local_training import Batch
from gradleak.optim import Adam, Budget, minimize
from gradleak.reconstructions import History, Reconstruction, Snapshot
from gradleak.seeds import stage_generator
from gradleak.threat import Observation

_FEATURES = 96
_FEATURE_KERNEL = 3


@dataclass(frozen=True)
class Weights:
    """The published numbers of one data set.

    Attributes:
        invariant: what is compared between epochs: the mean over the images of their pixels, or the maximum over them
            of random convolution features.
        invariant_weight: of that term.
        total_variation: weight of `priors.mean_absolute_differences`.
        box: weight of the squared distance to the bounds.
        ramp: factor of the distance between updates at the first step; at `ramp_steps` and later it is 2.
        lr: of Adam.
        decay: of the learning rate, every `decay_steps` steps.
        decay_steps: see `decay`.
    """

    invariant: Literal["pixel_mean", "feature_max"]
    invariant_weight: float
    total_variation: float
    box: float
    ramp: float
    lr: float
    decay: float
    decay_steps: int


FEMNIST = Weights("pixel_mean", 1000.0, 1e-3, 2.0, 1.0, 0.4, 0.995, 10)
CIFAR100 = Weights("feature_max", 6.075, 2e-4, 10.0, 4.0, 0.1, 0.997, 20)
PRESETS: Mapping[str, Weights] = {"femnist": FEMNIST, "cifar100": CIFAR100}

RAMP_END = 2.0
RAMP_STEPS = 200


@dataclass(frozen=True)
class OrderInvariant:
    """One copy of the images for every epoch, held together by a term that does not see their order.

    Args:
        weights: of all terms.
        steps: of Adam.
        restarts: independent starts, one after the other; the one with the lowest objective is returned.
        max_evaluations: over all restarts; one evaluation simulates all local steps.
        max_seconds: wall time.
        max_memory_gb: see `door.facts_for_simulation`.
        snapshots: how many candidates to keep for pictures.
        name: the attack's name in tables.
    """

    weights: Weights = CIFAR100
    steps: int = 400
    restarts: int = 1
    max_evaluations: int | None = None
    max_seconds: float | None = None
    max_memory_gb: float | None = None
    snapshots: int = 24
    name: str = "order_invariant"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        images = len(observation.task.space.variable_shape) == 3
        facts = facts_for_simulation(observation, self.max_memory_gb) if images else "it applies to images"
        if isinstance(facts, str):
            return not_applicable(self.name, observation, facts)
        shape = (facts.epochs, facts.count, *observation.task.space.variable_shape)
        # Positions mean nothing to the attacker: which label stands where is drawn, and stays for all epochs.
        permutation = torch.randperm(facts.count, generator=stage_generator(seed, "attack/labels"))
        targets = facts.targets[permutation.to(facts.targets.device)]
        energies = self._energies(observation, facts, targets, shape)
        best: Reconstruction | None = None
        used = 0
        for restart in range(self.restarts):
            left = None if self.max_evaluations is None else self.max_evaluations - used
            seconds = None if self.max_seconds is None else self.max_seconds - (time.perf_counter() - began)
            if best is not None and ((left is not None and left <= 0) or (seconds is not None and seconds <= 0)):
                break
            generator = stage_generator(seed, f"attack/start/{restart}")
            start = torch.randn(math.prod(shape), generator=generator, dtype=torch.float64)
            ended = minimize(
                ramped(*energies, self.weights.ramp),
                start.to(observation.task.device, observation.task.dtype)[None],
                optimizer=self.optimizer(left),
                budget=Budget(evaluations=None if left is None else max(1, left), seconds=seconds),
                moments=self.snapshots,
                progress=progress,
            )
            used += ended.evaluations
            variable = aligned_mean(ended.points[0].view(shape))
            space = observation.task.space
            history = History(
                tuple(range(1, ended.evaluations + 1)),
                ended.times,
                tuple(ended.trace[:, 0].tolist()),
                tuple(
                    Snapshot(moment.evaluations, space.decode(aligned_mean(moment.points[0].view(shape))))
                    for moment in ended.moments
                ),
            )
            error = mismatch(observation, variable, targets)
            found = Reconstruction(
                inputs=space.decode(variable),
                targets=targets.argmax(dim=1),
                targets_given=observation.targets is not None,
                objective=error,
                evaluations=used,
                seconds=time.perf_counter() - began,
                status="converged" if error <= REPRODUCED else "budget",
                attack=self.name,
                variable=variable,
                target_probabilities=targets,
                message=(
                    f"the mean of {facts.epochs} aligned epochs leaves a relative squared error of {error:.1e}; "
                    f"each evaluation simulates {facts.steps} local steps of {facts.step_size} examples"
                ),
                history=history,
                trace=facts.trace,
            )
            if not bool(torch.isfinite(ended.last_values).all()):
                found = replace(found, status="nonfinite", message="the search diverged")
            if best is None or found.objective < best.objective:
                best = found
        assert best is not None  # the first restart always runs
        return replace(best, evaluations=used, seconds=time.perf_counter() - began)

    def optimizer(self, left: int | None) -> Adam:
        """Adam with the published decay, with fewer steps where the budget allows only fewer."""
        steps = self.steps if left is None else max(1, min(self.steps, left - 1))
        return Adam(steps=steps, lr=self.weights.lr, schedule=partial(_decayed, self.weights))

    def _energies(
        self, observation: Observation, facts: Facts, targets: Tensor, shape: tuple[int, ...]
    ) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The distance between updates, which is ramped, and all other terms, each of a flat candidate."""
        settings, bounds = self.weights, observation.task.space.bounds
        observed = {name: tensor.to(observation.task.dtype) for name, tensor in observation.update.tensors.items()}
        features = _random_features(shape[2], observation) if settings.invariant == "feature_max" else None

        def distance(candidate: Tensor) -> Tensor:
            simulated = facts.simulate(batches_of(candidate.view(shape), targets, facts.slices))
            return layer_distance(simulated, observed, facts.lr) / facts.steps

        def rest(candidate: Tensor) -> Tensor:
            copies = candidate.view(shape)
            value = settings.invariant_weight * invariant_distance(copies, features)
            value = value + settings.total_variation * mean_absolute_differences(copies.flatten(0, 1))
            if bounds is not None:
                value = value + settings.box * (copies - copies.clamp(*bounds)).square().mean()
            return value

        return distance, rest


def batches_of(copies: Tensor, targets: Tensor, slices: tuple[tuple[int, int], ...]) -> list[Batch]:
    """Every local step's batch: consecutive images of each epoch's own copies `[epochs, N, ...]`."""
    return [(epoch[first:last], targets[first:last]) for epoch in copies for first, last in slices]


def layer_distance(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], lr: float) -> Tensor:
    """Squared distance of the summed gradients, tensor l of the update weighted `exp(-l)`, the first with 1."""
    terms = [
        math.exp(-layer) * ((simulated[name] - value) / lr).square().sum()
        for layer, (name, value) in enumerate(observed.items())
    ]
    return torch.stack(terms).sum()


def invariant_distance(copies: Tensor, features: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Summed distance between all pairs of epochs of what does not depend on the order of their images.

    Args:
        copies: `[epochs, N, C, H, W]`.
        features: of images, whose maximum over them is compared; None compares the mean of the pixels.

    Returns:
        A scalar; zero for one epoch.
    """
    if len(copies) == 1:
        return copies.new_zeros(())
    if features is None:
        seen = copies.mean(dim=1).flatten(1)
    else:
        seen = features(copies.flatten(0, 1)).unflatten(0, copies.shape[:2]).amax(dim=1).flatten(1)
    one, other = torch.triu_indices(len(copies), len(copies), offset=1)
    return torch.linalg.vector_norm(seen[one] - seen[other], dim=1).sum()


def _random_features(channels: int, observation: Observation) -> Callable[[Tensor], Tensor]:
    """96 random 3x3 convolutions, the same for every attack."""
    generator = stage_generator(0, "attack/order_invariant/features")
    kernel = torch.randn((_FEATURES, channels, _FEATURE_KERNEL, _FEATURE_KERNEL), generator=generator)
    kernel = (kernel / (channels * _FEATURE_KERNEL**2) ** 0.5).to(observation.task.device, observation.task.dtype)
    return lambda images: torch.nn.functional.conv2d(images, kernel)


def ramped(
    distance: Callable[[Tensor], Tensor], rest: Callable[[Tensor], Tensor], first: float
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Values and gradients of `factor * distance + rest`, with a factor that runs from `first` to 2 and stays.

    The gradient is that of the present factor; the value is that of the last one, so that the values of different
    steps, among which the best is kept, mean the same.

    Returns:
        A function of one restart's point `[1, D]`, to be called once a step.
    """
    step = 0

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal step
        factor = first * (RAMP_END / first) ** min(step / RAMP_STEPS, 1.0)
        step += 1
        leaf = points.detach().requires_grad_()
        apart, others = distance(leaf[0]), rest(leaf[0])
        (gradient,) = torch.autograd.grad(factor * apart + others, leaf)
        return (RAMP_END * apart + others).detach()[None], gradient

    return evaluate


def _decayed(settings: Weights, lr: float, step: int, steps: int) -> float:
    del steps
    return lr * settings.decay ** (step // settings.decay_steps)


def aligned_mean(copies: Tensor) -> Tensor:
    """The mean over epochs after pairing each one's images with those of the first epoch, by PSNR.

    Args:
        copies: `[epochs, N, ...]`, the attack's own candidates.

    Returns:
        `[N, ...]`.
    """
    first = copies[0].flatten(1)
    total = copies[0].clone()
    for epoch in copies[1:]:
        errors = (first[:, None] - epoch.flatten(1)[None]).square().mean(dim=2).double()
        places = linear_sum_assignment(errors.clamp(min=1e-12).log().cpu().numpy())[1]
        total = total + epoch[torch.as_tensor(places)]
    return total / len(copies)


def order_invariant(
    *,
    preset: Literal["femnist", "cifar100"] = "cifar100",
    steps: int = 400,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    max_memory_gb: float | None = None,
    snapshots: int = 24,
) -> OrderInvariant:
    """Data leakage in federated averaging (Dimitrov, Balunovic, Konstantinov, Vechev 2022), with their numbers.

    Every epoch has its own copy of the images, since its order is unknown; a term that does not depend on the order
    holds the copies together. The update is simulated through all local steps and compared by the squared distance,
    tensor l with weight `exp(-l)`, over the number of steps; total variation, a soft box, Adam for 400 steps from
    N(0, 1); at last the epochs are aligned to the first and averaged. Labels are given, or recovered by
    `labels.recover_counts`, and stand in a random order that is the same in each epoch. The random features' own scale
    and the reduction of the box term, a mean over entries, are not published and ours.

    The reported objective is the relative squared error of the update at the averaged images.

    Args:
        preset: whose numbers: those for FEMNIST or for CIFAR-100.
        steps: of Adam.
        restarts: independent starts, one after the other.
        max_evaluations: over all restarts; one evaluation simulates all local steps.
        max_seconds: wall time.
        max_memory_gb: what the simulation may take; None for what the machine has free.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack, for clients with local training whose settings are known.
    """
    return OrderInvariant(
        weights=PRESETS[preset],
        steps=steps,
        restarts=restarts,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        max_memory_gb=max_memory_gb,
        snapshots=snapshots,
    )
