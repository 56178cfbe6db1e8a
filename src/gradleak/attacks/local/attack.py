"""The strongest attack here on federated averaging: a surrogate first, the true local steps where they are cheap."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.local.course import Course
from gradleak.attacks.local.door import known_targets, simulation
from gradleak.attacks.local.features import FeatureProblem, feature_problem
from gradleak.attacks.local.matching import Images, feature_energy, grey_start, is_scaleless, joint_energy, search
from gradleak.attacks.local.separating import Separated, separated
from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.attacks.objectives import cosine_distance
from gradleak.attacks.priors import mean_absolute_differences
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.purse import Purse
from gradleak.attacks.surrogate import path_scale, surrogate_gradient
from gradleak.clients.local_training import LocalTraining
from gradleak.reconstructions import History, Reconstruction
from gradleak.seeds import stage_generator
from gradleak.threat import Observation

# Spread of the first whitened features: images that are all alike, and yet tell apart.
_SPREAD = 0.3
# Separated features leave less of every layer's gradient than this; a search that is stuck leaves ten times as much.
_SEPARATED = 5e-4
_AGREEMENT = 0.01
_IMAGE_EVALUATIONS = 300
_JOINT_EVALUATIONS = 400
_SIMULATED_EVALUATIONS = 40
# Examples that one evaluation may simulate: local steps times their batch size.
SIMULATED_EXAMPLES = 128
_VARIATION = 1e-3
_SIMULATED_VARIATION = 3e-4


@dataclass(frozen=True)
class LocalTrainingAttack:
    """See `local_training`.

    Args:
        restarts: starts of the first stage until one succeeds; the best by its own objective is kept.
        separation: separate the features at a wide hidden layer first, where the model has one.
        simulated_examples: local steps are simulated if their number times their batch size is at most this.
        simulated_evaluations: of the simulation.
        joint_evaluations: of the search of all images on the surrogate.
        max_evaluations: over everything.
        max_seconds: wall time.
        max_memory_gb: what a simulation may take; None for half of what the machine has free.
        name: the attack's name in tables.
    """

    restarts: int = 4
    separation: bool = True
    simulated_examples: int = SIMULATED_EXAMPLES
    simulated_evaluations: int = _SIMULATED_EVALUATIONS
    joint_evaluations: int = _JOINT_EVALUATIONS
    max_evaluations: int | None = None
    max_seconds: float | None = None
    max_memory_gb: float | None = None
    name: str = "local_training"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. The reconstruction's `trace` tells what was done and why."""
        began = time.perf_counter()
        reason = _door(observation)
        trace: list[str] = []
        targets = known_targets(observation, trace) if reason is None else reason
        if isinstance(targets, str):
            return not_applicable(self.name, observation, targets)
        ends = math.inf if self.max_seconds is None else began + self.max_seconds
        course = Course(began, Purse(self.max_evaluations, ends), trace)
        straight = surrogate_gradient(observation)
        images = Images.of(observation, targets)
        given = observation.targets is not None
        start, targets, joint = self._start(straight, images, targets, given, seed, course, progress)
        ended = search(
            joint_energy(straight, images, targets, _VARIATION),
            start,
            self.joint_evaluations if joint else self.joint_evaluations // 4,
            course.purse,
            progress,
        )
        point = start
        if ended is not None:
            course.record(ended)
            point = ended.points[0]
            course.trace.append(
                f"surrogate: {ended.evaluations} evaluations of one gradient of all {len(targets)} examples, objective "
                f"{float(ended.values[0]):.1e}"
            )
        course.picture(observation, images.variable(point))
        point = self._simulated(observation, images, targets, point, course, progress)
        return self._reconstruction(observation, images.variable(point), targets, course)

    def _start(
        self,
        straight: Observation,
        images: Images,
        targets: Tensor,
        given: bool,
        seed: int,
        course: Course,
        progress: Progress | None,
    ) -> tuple[Tensor, Tensor, bool]:
        """Where the images' search starts, with which targets, and whether it starts from nothing."""
        generator = stage_generator(seed, "attack/start/0")
        grey = grey_start(images, generator)
        if not self.separation:
            return grey, targets, True
        problem = feature_problem(straight, len(targets))
        if isinstance(problem, str):
            course.trace.append(f"features are not separated: {problem}")
            return grey, targets, True
        found = self._separated(problem, targets, given, seed, course, progress)
        if found is None:
            return grey, targets, True
        coordinates, targets = found
        energy = feature_energy(straight, problem, coordinates, images)
        ended = search(energy, grey, _IMAGE_EVALUATIONS, course.purse, progress)
        if ended is None:
            return grey, targets, True
        course.record(ended)
        course.picture(straight, images.variable(ended.points[0]))
        course.trace.append(
            f"images from features: {ended.evaluations} evaluations of the layers below {problem.layer}, objective "
            f"{float(ended.values[0]):.1e}"
        )
        return ended.points[0], targets, False

    def _separated(
        self,
        problem: FeatureProblem,
        targets: Tensor,
        given: bool,
        seed: int,
        course: Course,
        progress: Progress | None,
    ) -> tuple[Tensor, Tensor] | None:
        """Features' coordinates and targets of every example, from the best of a few starts; None without a budget."""
        best: Separated | None = None
        tries = 0
        for restart in range(self.restarts):
            generator = stage_generator(seed, f"attack/features/{restart}")
            latent = _SPREAD * torch.randn((len(targets),) * 2, generator=generator, dtype=torch.float64)
            found = separated(problem, latent.to(problem.mean), targets, not given, course.purse, progress)
            if found is None:
                break
            for ended, used in found.searches:
                course.record(ended, used)
            tries += 1
            value, before = found.value, math.inf if best is None else best.value
            if best is None or value < before:
                best = found
            # Two starts that end alike found the minimum, which local steps keep above zero.
            if min(value, before) <= _SEPARATED or abs(value - before) <= _AGREEMENT * value:
                break
        if best is None:
            return None
        changed = int((best.targets.argmax(dim=1) != targets.argmax(dim=1)).sum())
        labels = "" if given else f", {changed} labels changed from the first counts"
        course.trace.append(
            f"features at {problem.layer}: {len(targets)} examples are separated to a relative squared error of "
            f"{best.value:.1e} in {tries} starts, whose evaluations leave out the layers below{labels}"
        )
        return problem.coordinates(best.latent).detach(), best.targets

    def _simulated(
        self,
        observation: Observation,
        images: Images,
        targets: Tensor,
        point: Tensor,
        course: Course,
        progress: Progress | None,
    ) -> Tensor:
        """The point after a search through the true local steps, where they are known and cheap enough."""
        client, count = observation.client, len(targets)
        if not isinstance(client, LocalTraining):
            course.trace.append("local steps are not simulated: they are not those of one known client")
            return point
        steps, size = client.steps(count), min(client.batch_size or count, count)
        if steps == 1:
            return point
        if steps * size > self.simulated_examples:
            course.trace.append(
                f"local steps are not simulated: {steps} steps of {size} examples are more than "
                f"{self.simulated_examples} examples an evaluation"
            )
            return point
        run = simulation(observation, client, count, self.max_memory_gb, course.trace)
        if isinstance(run, str):
            course.trace.append(f"the surrogate is used instead of local steps: {run}")
            return point
        chosen = [list(positions) for epoch in client.schedule(count) for positions in epoch]
        observed = {name: tensor.to(observation.task.dtype) for name, tensor in observation.update.tensors.items()}
        smooth = len(images.layout.variable_shape) == 4

        def energy(candidate: Tensor) -> Tensor:
            variable = images.variable(candidate)
            simulated = run([(variable[positions], targets[positions]) for positions in chosen])
            value = cosine_distance(simulated, observed)
            return value + _SIMULATED_VARIATION * mean_absolute_differences(variable) if smooth else value

        ended = search(energy, point, self.simulated_evaluations, course.purse, progress)
        if ended is None:
            return point
        course.record(ended)
        course.trace.append(
            f"simulation: {ended.evaluations} evaluations of {steps} local steps of {size} examples each, objective "
            f"{float(ended.values[0]):.1e}"
        )
        return ended.points[0]

    def _reconstruction(
        self, observation: Observation, variable: Tensor, targets: Tensor, course: Course
    ) -> Reconstruction:
        """The end, measured by the client's own simulation where it is known."""
        course.picture(observation, variable)
        # A delta without its client is compared at the weights in the middle of its path.
        measured = surrogate_gradient(observation) if is_scaleless(observation) else observation
        error = mismatch(measured, variable, targets)
        measure = "cosine distance" if is_scaleless(observation) else "relative squared error"
        return Reconstruction(
            inputs=observation.task.space.decode(variable),
            targets=targets.argmax(dim=1),
            targets_given=observation.targets is not None,
            objective=error,
            evaluations=course.purse.used,
            seconds=time.perf_counter() - course.began,
            status="nonfinite" if not math.isfinite(error) else "converged" if error <= REPRODUCED else "budget",
            attack=self.name,
            variable=variable,
            target_probabilities=targets,
            message=f"{course.trace[-1]}; the update is reproduced to a {measure} of {error:.1e}",
            history=History(
                tuple(course.evaluations), tuple(course.seconds), tuple(course.values), tuple(course.snapshots)
            ),
            trace=tuple(course.trace),
        )


def _door(observation: Observation) -> str | None:
    """Why the attack does not apply, or None."""
    if observation.update.is_empty:
        return "no evidence: every entry of the update is zero"
    if observation.update.kind != "delta":
        return "it is for weight deltas of local training; a gradient needs no surrogate"
    if observation.batch_size is None:
        return "the batch size is withheld, and the number of examples is not searched"
    scale = path_scale(observation)
    return scale if isinstance(scale, str) else None


def local_training(
    *,
    restarts: int = 4,
    separation: bool = True,
    simulated_examples: int = SIMULATED_EXAMPLES,
    simulated_evaluations: int = _SIMULATED_EVALUATIONS,
    joint_evaluations: int = _JOINT_EVALUATIONS,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    max_memory_gb: float | None = None,
) -> LocalTrainingAttack:
    """The strongest attack here on the weight delta of local training.

    First one gradient in the middle of the path stands for all steps. Where the network has a linear hidden layer with
    more units than there are examples, the features that enter it are separated, one problem of N^2 unknowns without
    the layers below, and each image is searched for its features; labels that are not given are searched along with the
    features, from the recovered counts. Then all images together, by cosine distance, in
    weighted frequencies, with a little total variation. At last the true local steps are simulated through, in any
    order of the examples, if an evaluation then costs at most `simulated_examples` examples and memory allows: as one
    graph, or with the weights of each step alone. For clients of local SGD, aggregates of them, and deltas of unknown
    clients where labels are given; smooth networks serve it best.

    Labels are given, or recovered by `labels.recover_counts`. The reported objective is the relative squared error of
    the client's own simulation. One evaluation is one gradient of all examples, or one simulation of all local steps;
    the trace says how many of each.

    Args:
        restarts: starts of the separation until one succeeds.
        separation: False leaves it out.
        simulated_examples: local steps times batch size up to which they are simulated; 0 for never.
        simulated_evaluations: of the simulation.
        joint_evaluations: of all images on the surrogate; a quarter of them after a separation.
        max_evaluations: over everything.
        max_seconds: wall time.
        max_memory_gb: what a simulation may take; None for half of what the machine has free.

    Returns:
        The attack.
    """
    return LocalTrainingAttack(
        restarts=restarts,
        separation=separation,
        simulated_examples=simulated_examples,
        simulated_evaluations=simulated_evaluations,
        joint_evaluations=joint_evaluations,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        max_memory_gb=max_memory_gb,
    )
