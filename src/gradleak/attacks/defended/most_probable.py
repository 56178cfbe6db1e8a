"""The most probable image behind a defended update: likelihood under the known defenses, and a prior of photographs."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradleak.attacks.defended.posterior import Posterior
from gradleak.attacks.head import find_head
from gradleak.attacks.labels import LabelCounts, leading_row, recover_counts
from gradleak.attacks.layout import Layout
from gradleak.attacks.precision import in_precision
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.second_derivative import no_second_derivative
from gradleak.attacks.spectrum import weighted_frequencies
from gradleak.attacks.starts import Start, flat, grey
from gradleak.optim import Budget, Minimum, Optimizer, Settling, WolfeLBFGS, minimize, value_and_gradient
from gradleak.optim.stages import Coordinates, unchanged
from gradleak.reconstructions import History, Reconstruction, Snapshot, Status
from gradleak.seeds import stage_generator
from gradleak.threat import Observation

# Without noise the prior only decides what the update leaves open: this is the variance, relative to the update's
# squared norm, that stands for none.
TIE_BREAK = 1e-12
# Nats over a window of evaluations below which a search has settled, a share of the unknowns before the last level.
_SETTLED = 1.0
_SETTLED_SHARE = 0.01


@dataclass(frozen=True)
class MaximumAPosteriori:
    """The attack of `maximum_a_posteriori`.

    Args:
        levels: variances of the noise, relative to the update's squared norm, at which the search goes before the one
            that is known, as far as they are larger: a strong prior shapes the image first.
        level_evaluations: most evaluations at each of these.
        prior: whether photographs are more plausible than other images.
        spectrum: exponent of the weighted frequencies in which images are searched.
        restarts: of batches; a single example has one start.
        max_evaluations: over everything, or None.
        max_seconds: wall time, or None.
        snapshots: how many candidates to keep for pictures.
        name: in tables.
    """

    levels: tuple[float, ...] = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
    level_evaluations: int = 300
    prior: bool = True
    spectrum: float = 0.7
    restarts: int = 1
    max_evaluations: int | None = None
    max_seconds: float | None = None
    snapshots: int = 24
    name: str = "maximum_a_posteriori"
    optimizer: Optimizer = field(default_factory=WolfeLBFGS)

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        observation = in_precision(observation, torch.float64)
        reason = _unfit(observation)
        if reason is not None:
            return not_applicable(self.name, observation, reason)
        assert observation.batch_size is not None
        layout = Layout.of(observation, observation.batch_size, _targets(observation, observation.batch_size, seed))
        lacking = no_second_derivative(observation, layout)
        if lacking is not None:
            return not_applicable(self.name, observation, lacking)
        posterior = Posterior.of(observation, prior=self.prior)
        best: Reconstruction | None = None
        used, restarts = 0, 1 if layout.variable_shape[0] == 1 else self.restarts
        for number in range(restarts):
            purse = _Purse(
                None if self.max_evaluations is None else (self.max_evaluations - used) // (restarts - number),
                None
                if self.max_seconds is None
                else (self.max_seconds - (time.perf_counter() - began)) / (restarts - number),
                time.perf_counter(),
            )
            found = self._search(observation, posterior, layout, (seed, number), purse, progress)
            used += found.evaluations
            best = found if best is None or found.objective < best.objective else best
        assert best is not None
        return replace(best, evaluations=used, seconds=time.perf_counter() - began)

    def schedule(self, posterior: Posterior) -> list[float]:
        """The levels in turn; the last is the known one, or what stands for none, or 0 where nothing is defended."""
        known = posterior.level
        last = known if known > 0 else TIE_BREAK if self.prior else 0.0
        return [*(level for level in self.levels if level > 3 * last), last]

    def _search(
        self,
        observation: Observation,
        posterior: Posterior,
        layout: Layout,
        seeds: tuple[int, int],
        purse: "_Purse",
        progress: Progress | None,
    ) -> Reconstruction:
        """One start through all levels."""
        expand, restrict = unchanged, unchanged
        if len(layout.variable_shape) == 4:
            expand, restrict = weighted_frequencies(layout, self.spectrum)
        point = restrict(_start(layout, *seeds))
        schedule, parts = self.schedule(posterior), list[tuple[int, float, Minimum]]()
        for number, level in enumerate(schedule):
            last = number == len(schedule) - 1
            part = minimize(
                value_and_gradient(_energy(posterior, layout, expand, level)),
                point[None],
                optimizer=self._settling(layout, level, last=last),
                budget=purse.budget(None if last else self.level_evaluations, 1 if last else 0.4),
                moments=self.snapshots,
                progress=progress,
            )
            if bool(torch.isfinite(part.values[0])):
                point = part.points[0]
            parts.append((purse.used, purse.elapsed - part.seconds, part))
            purse.used += part.evaluations
            if purse.empty:
                break
        return self._reconstruction(observation, posterior, layout, expand, point, parts)

    def _settling(self, layout: Layout, level: float, *, last: bool) -> Optimizer:
        """L-BFGS until it gains too few nats."""
        nats = _SETTLED if last else max(_SETTLED, _SETTLED_SHARE * math.prod(layout.variable_shape))
        return Settling(self.optimizer, least=2 * level * nats) if level > TIE_BREAK else self.optimizer

    def _reconstruction(
        self,
        observation: Observation,
        posterior: Posterior,
        layout: Layout,
        expand: Coordinates,
        point: Tensor,
        parts: list[tuple[int, float, Minimum]],
    ) -> Reconstruction:
        """The last point, decoded."""
        space = observation.task.space
        variable, targets = layout.unpack(expand(point))
        with torch.no_grad():
            objective = float(posterior.value(variable, targets, self.schedule(posterior)[-1]))
        misfit, expected = posterior.misfit(variable, targets), posterior.expected
        status: Status = "converged" if misfit <= max(expected, 1e-6) else "budget"
        if not math.isfinite(objective):
            status = "nonfinite"
        course = [
            (before + n + 1, offset + t, float(v))
            for before, offset, part in parts
            for n, (t, v) in enumerate(zip(part.times, part.trace[:, 0], strict=True))
        ]
        snapshots = [
            Snapshot(before + moment.evaluations, space.decode(layout.unpack(expand(moment.points[0]))[0]))
            for before, _, part in parts
            for moment in part.moments
        ]
        return Reconstruction(
            inputs=space.decode(variable),
            targets=targets.argmax(dim=1),
            targets_given=observation.targets is not None,
            objective=objective,
            evaluations=len(course),
            seconds=0.0,
            status=status,
            attack=self.name,
            variable=variable,
            target_probabilities=targets,
            message=f"a relative squared error of {misfit:.1e} is left"
            + (f", where noise alone leaves up to {expected:.1e}" if expected else ""),
            history=History(
                tuple(row[0] for row in course),
                tuple(row[1] for row in course),
                tuple(row[2] for row in course),
                tuple(snapshots),
            ),
        )


@dataclass
class _Purse:
    """What one start may spend."""

    evaluations: int | None
    seconds: float | None
    began: float
    used: int = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        spent = self.evaluations is not None and self.used >= self.evaluations
        return spent or (self.seconds is not None and self.elapsed >= self.seconds)

    def budget(self, evaluations: int | None, share: float) -> Budget:
        """At most so many evaluations, and a share of what is left."""
        left = None if self.evaluations is None else max(1, math.ceil(share * (self.evaluations - self.used)))
        few = [limit for limit in (evaluations, left) if limit is not None]
        seconds = None if self.seconds is None else max(0.0, share * (self.seconds - self.elapsed))
        return Budget(evaluations=min(few, default=None), seconds=seconds)


def _energy(posterior: Posterior, layout: Layout, expand: Coordinates, level: float) -> Callable[[Tensor], Tensor]:
    """The objective in the search's coordinates."""
    return lambda point: posterior.value(*layout.unpack(expand(point)), level)


def _start(layout: Layout, seed: int, number: int) -> Tensor:
    """Grey; close to it where examples must be told apart."""
    generator = stage_generator(seed, f"attack/start/{number}")
    start: Start = grey if layout.variable_shape[0] == 1 else flat(0.5, spread=0.1)
    variable = start(layout.variable_shape, generator)
    return layout.pack(variable, torch.zeros(layout.logits_shape, dtype=torch.float64))


def _unfit(observation: Observation) -> str | None:
    """Why the attack has nothing to work on, if it has not."""
    if observation.update.is_empty:
        return "no evidence: every entry of the update is zero"
    if observation.client is None and observation.update.kind != "gradient":
        return "a weight delta cannot be simulated without its client"
    if observation.batch_size is None:
        return "the batch size is withheld, and this attack needs it"
    return None


def _targets(observation: Observation, count: int, seed: int) -> Tensor | None:
    """Target probabilities `[N, C]`, given or from the classifier's gradient; None where they are to be searched."""
    task = observation.task
    if observation.targets is not None:
        return task.target_probabilities(observation.targets)
    head = find_head(task, observation.state)
    if head is None:
        return None
    if count == 1:
        tensors = observation.update.in_gradient_direction()
        bias = None if head.bias is None else tensors[head.bias]
        return task.target_probabilities(torch.tensor([leading_row(tensors[head.weight], bias)]))
    found = recover_counts(observation, count, seed=seed)
    if not isinstance(found, LabelCounts):
        return None
    return task.target_probabilities(torch.arange(task.num_classes).repeat_interleave(found.counts.long()))


def maximum_a_posteriori(
    *,
    prior: bool = True,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> MaximumAPosteriori:
    """The most probable batch behind a defended update, for networks with smooth activations.

    It minimizes `-log p(h | x) - log p(x)`: the known defenses say which misfits count and how much (Balunovic et al.
    2022), `natural_images` how plausible an image is. Where there is no noise but the defense leaves things open, as
    pruning does, the prior's weight falls until it only decides what is open.

    Args:
        prior: whether photographs count as more plausible than other images; False gives the likelihood alone.
        restarts: of batches; a single example has one start.
        max_evaluations: over everything; None for no limit.
        max_seconds: wall time; None for no limit.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.
    """
    return MaximumAPosteriori(
        prior=prior, restarts=restarts, max_evaluations=max_evaluations, max_seconds=max_seconds, snapshots=snapshots
    )
