"""Networks with dropout whose masks nobody but the client knows: images and masks are searched together.

Scheliga, Maeder, Seeland, *Dropout is NOT All You Need to Prevent Gradient Leakage*, AAAI 2023. Masks are relaxed to
real numbers between "dropped" and "kept", held near their expected mean by a penalty, and matched with the images.
Here the search is L-BFGS in float64 and not Adam; masks that the update shows are not searched: behind a dropout layer,
a linear layer's weight gradient has zeros in the columns of what was dropped. Found masks are rounded at the end, and
the images searched once more.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.courses import joined_history
from gradleak.attacks.dropout_masks import MaskLayout
from gradleak.attacks.inversion import observed_tensors
from gradleak.attacks.layout import Layout
from gradleak.attacks.mismatch import REPRODUCED
from gradleak.attacks.objectives import normalized_squared_distance
from gradleak.attacks.precision import in_precision
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.searched_targets import recovered_targets
from gradleak.attacks.spectrum import weighted_frequencies
from gradleak.clients import Gradient
from gradleak.optim import Budget, LevenbergMarquardt, Limits, Minimum, WolfeLBFGS, minimize, value_and_gradient
from gradleak.optim.stages import Coordinates, unchanged
from gradleak.reconstructions import Reconstruction
from gradleak.seeds import stage_generator
from gradleak.threat import Observation

# Evaluations of each restart when no limit is given.
_EVALUATIONS = 2_000
# Up to which share of a restart's budget each part goes, and whether masks are rounded and fixed in it.
_SHARES = ((0.5, False), (0.75, True), (1.0, True))
# Evaluations for which Gauss-Newton steps are not begun.
_FEW = 20
_EXPLAINED = 1e-15


@dataclass(frozen=True)
class DropoutInversion:
    """The attack of `dropout_inversion`.

    Args:
        restarts: starts one after the other, until one reproduces the update.
        max_evaluations: over all of them, or None.
        max_seconds: wall time, or None.
        penalty_weight: of the masks' mean.
        spectrum: exponent of the weighted frequencies in which images are searched.
        name: in tables.
    """

    restarts: int = 2
    max_evaluations: int | None = None
    max_seconds: float | None = None
    penalty_weight: float = 1e-4
    spectrum: float = 0.7
    name: str = "dropout_inversion"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        reason, targets = _door(observation)
        if reason or targets is None:
            return not_applicable(self.name, observation, reason)
        observation = in_precision(observation, torch.float64)
        client, count = observation.client, len(targets)
        assert isinstance(client, Gradient)
        step, simulate = client.bind_draws(observation.task, observation.state)
        layout = Layout.of(observation, count, targets.double())
        masks = MaskLayout.of(observation, step, torch.zeros(layout.variable_shape, dtype=torch.float64))
        search = _Search(observation, layout, masks, simulate, self.penalty_weight, self.spectrum)
        ends = None if self.max_seconds is None else began + self.max_seconds
        best: tuple[float, Tensor, Tensor] | None = None
        used, courses = 0, list[Minimum]()
        total = _EVALUATIONS * self.restarts if self.max_evaluations is None else self.max_evaluations
        for restart in range(self.restarts):
            left = (total - used) // (self.restarts - restart)
            now = time.perf_counter()
            if best is not None and (left < 3 or best[0] <= REPRODUCED or (ends is not None and now >= ends)):
                break
            seconds = None if ends is None else max(0.0, (ends - now) / (self.restarts - restart))
            image, flat, spent, course = search.round(restart, seed, max(1, left), seconds, progress)
            used, value = used + spent, search.value(image, flat)
            courses += course
            best = (value, image, flat) if best is None or value < best[0] else best
        assert best is not None
        return self._reconstruction(observation, search, best, targets, used, courses, began)

    def _reconstruction(
        self,
        observation: Observation,
        search: "_Search",
        best: tuple[float, Tensor, Tensor],
        targets: Tensor,
        used: int,
        courses: list[Minimum],
        began: float,
    ) -> Reconstruction:
        value, image, flat = best
        variable = search.variable(image)
        masks = search.masks
        sure = float(((flat == 0) | (flat == masks.kept)).double().mean())
        return Reconstruction(
            inputs=observation.task.space.decode(variable),
            targets=targets.argmax(dim=1),
            targets_given=observation.targets is not None,
            objective=value,
            evaluations=used,
            seconds=time.perf_counter() - began,
            status="converged" if value <= REPRODUCED else "budget" if value < float("inf") else "nonfinite",
            attack=self.name,
            variable=variable,
            target_probabilities=targets,
            message=(
                f"{masks.known} of {len(flat)} mask entries read from linear layers, the others searched with the "
                f"images; {sure:.0%} ended as dropped or kept; with them the update is met to a relative squared "
                f"error of {value:.1e}"
            ),
            history=joined_history(courses),
        )


@dataclass(frozen=True, eq=False)
class _Search:
    """Images and masks in one flat vector, images in weighted frequencies."""

    observation: Observation
    layout: Layout
    masks: MaskLayout
    simulate: Callable[[Tensor, Tensor, dict[str, Tensor]], dict[str, Tensor]]
    penalty_weight: float
    exponent: float

    def _coordinates(self) -> tuple[Coordinates, Coordinates]:
        if len(self.layout.variable_shape) != 4:
            return unchanged, unchanged
        return weighted_frequencies(self.layout, self.exponent)

    def start(self, restart: int, seed: int) -> Tensor:
        """Mid-grey, with noise that tells examples and restarts apart."""
        shape = self.layout.variable_shape
        noise = torch.randn(shape, generator=stage_generator(seed, f"attack/start/{restart}"), dtype=torch.float64)
        spread = 0.1 if restart or shape[0] > 1 else 0.0
        return self._coordinates()[1]((0.5 + spread * noise).flatten())

    def variable(self, image: Tensor) -> Tensor:
        """`[N, *variable_shape]` of coordinates."""
        return self._coordinates()[0](image).view(self.layout.variable_shape)

    def parted(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the images, and masks."""
        return point[: -len(self.masks.kept)], point[-len(self.masks.kept) :]

    def value(self, image: Tensor, flat: Tensor) -> float:
        """The objective without the penalty."""
        with torch.no_grad():
            return float(self._distance(image, flat))

    def _distance(self, image: Tensor, flat: Tensor) -> Tensor:
        assert self.layout.fixed_targets is not None
        simulated = self.simulate(self.variable(image), self.layout.fixed_targets, self.masks.unpack(flat))
        return normalized_squared_distance(simulated, observed_tensors(self.observation))

    def round(
        self, restart: int, seed: int, evaluations: int, seconds: float | None, progress: Progress | None
    ) -> tuple[Tensor, Tensor, int, list[Minimum]]:
        """One start: masks and images, then the images alone with rounded masks, then Gauss-Newton steps on them.

        Returns:
            Coordinates of the images, masks, evaluations, and the courses of the first two.
        """
        began = time.perf_counter()
        image, flat = self.start(restart, seed), self.masks.first(restart, seed)
        courses: list[Minimum] = []
        shares = _SHARES[1:] if self.masks.known == len(flat) else _SHARES
        for share, fixed in shares[:-1]:
            flat = self.masks.rounded(flat) if fixed else flat
            spent = time.perf_counter() - began
            limit = None if seconds is None else max(0.0, seconds * share - spent)
            used = sum(course.evaluations for course in courses)
            courses.append(self.run(image, flat, fixed, max(1, int(evaluations * share) - used), limit, progress))
            image, flat = self.parted(courses[-1].points[0])
        used = sum(course.evaluations for course in courses)
        left = evaluations - used
        limit = None if seconds is None else max(0.0, seconds - (time.perf_counter() - began))
        if left < _FEW or limit == 0.0:
            return image, flat, used, courses
        finish = LevenbergMarquardt(dense_below=0, steps=200).minimize(
            lambda at: self._residual(at, flat),
            image,
            Limits(products=left - _FEW // 2, seconds=limit, target=_EXPLAINED),
        )
        return finish.point, flat, used + finish.evaluations + finish.products, courses

    def _residual(self, image: Tensor, flat: Tensor) -> Tensor:
        assert self.layout.fixed_targets is not None
        observed = observed_tensors(self.observation)
        simulated = self.simulate(self.variable(image), self.layout.fixed_targets, self.masks.unpack(flat))
        size = torch.cat([value.flatten() for value in observed.values()]).norm()
        return torch.cat([(simulated[name] - value).flatten() for name, value in observed.items()]) / size

    def run(
        self,
        image: Tensor,
        flat: Tensor,
        fixed: bool,
        evaluations: int,
        seconds: float | None,
        progress: Progress | None,
    ) -> Minimum:
        """L-BFGS from a point; with `fixed` the masks stay."""

        def energy(point: Tensor) -> Tensor:
            at, masks = self.parted(point)
            value = self._distance(at, masks)
            return value if fixed else value + self.penalty_weight * self.masks.penalty(masks)

        free = torch.full_like(image, torch.inf)
        box = (
            torch.cat([-free, flat if fixed else self.masks.low]),
            torch.cat([free, flat if fixed else self.masks.high]),
        )
        return minimize(
            value_and_gradient(energy),
            torch.cat([image, flat])[None],
            optimizer=WolfeLBFGS(),
            budget=Budget(evaluations=evaluations, seconds=seconds, target=_EXPLAINED),
            box=box,
            progress=progress,
        )


def _door(observation: Observation) -> tuple[str, Tensor | None]:
    """Why the attack does not apply, or else the targets."""
    client = observation.client
    if observation.update.is_empty:
        return "no evidence: every entry of the update is zero", None
    if not isinstance(client, Gradient) or client.dropout != "random":
        return "it is for a single gradient under random dropout, and the client is known to make none", None
    if client.micro_batch is not None:
        return "masks of micro-batches are not searched", None
    if observation.batch_size is None:
        return "the batch size is withheld, and this attack needs it", None
    targets = recovered_targets(
        observation, observation.batch_size, "bias_sign" if observation.batch_size == 1 else "row_minimum"
    )
    return (targets, None) if isinstance(targets, str) else ("", targets)


def dropout_inversion(
    *, restarts: int = 2, max_evaluations: int | None = None, max_seconds: float | None = None
) -> DropoutInversion:
    """Search images together with the masks of random dropout; for smooth networks first of all.

    Args:
        restarts: starts one after the other, until one reproduces the update: the first with mean masks, the others
            with drawn ones.
        max_evaluations: over all of them; None for 2,000 each.
        max_seconds: wall time; None for no limit.

    Returns:
        The attack; it applies to single gradients whose client is known to drop at random.
    """
    return DropoutInversion(restarts, max_evaluations, max_seconds)
