"""Networks with a variational bottleneck (PRECODE), whose latent noise nobody but the client knows.

For a single example the noise follows from the gradients, see `latent_reading`, and what is left is the network below
the bottleneck, for which `auto` is asked. So it does for most batches, see `latent_batches`; where it does not, images
and noise are searched together, the noise held near its law N(0, I) at first.
"""

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.courses import joined_history
from gradleak.attacks.latents.batches import images_below, read_latents
from gradleak.attacks.latents.reading import LatentReading, below_latent, read_latent
from gradleak.attacks.latents.search import LatentSearch
from gradleak.attacks.mismatch import REPRODUCED
from gradleak.attacks.one_gradient import as_gradient
from gradleak.attacks.precision import in_precision
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.searched_targets import recovered_targets
from gradleak.bottleneck import bottlenecks
from gradleak.clients import Gradient
from gradleak.defenses import Precode
from gradleak.optim import Minimum
from gradleak.reconstructions import Reconstruction
from gradleak.threat import Observation

# Evaluations of each restart when no limit is given.
_EVALUATIONS = 2_000
# Share of the seconds in which the noise of a batch is read, and the images below it.
_READ = 0.5


@dataclass(frozen=True)
class PrecodeInversion:
    """The attack of `precode_inversion`.

    Args:
        restarts: starts one after the other, until one reproduces the update.
        max_evaluations: over all of them, or None.
        max_seconds: wall time, or None.
        prior_weight: of the noise's mean square, while it is held near its law.
        spectrum: exponent of the weighted frequencies in which images are searched.
        name: in tables.
    """

    restarts: int = 2
    max_evaluations: int | None = None
    max_seconds: float | None = None
    prior_weight: float = 1e-4
    spectrum: float = 0.7
    name: str = "precode_inversion"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        door = _door(observation)
        if isinstance(door, str):
            return not_applicable(self.name, observation, door)
        observation, client, targets = door
        search = LatentSearch.of(
            in_precision(observation, torch.float64), client, targets.double(), self.prior_weight, self.spectrum
        )
        if len(targets) > 1:
            begun = self._begun(observation, search, seed, began)
            return self._together(search, begun, seed, began, progress)
        reading = read_latent(observation)
        if isinstance(reading, LatentReading):
            below = below_latent(observation, reading)
            if isinstance(below, Observation):
                return self._below(below, reading, search, seed, began, progress)
        return self._together(search, None, seed, began, progress)

    def _begun(self, observation: Observation, search: LatentSearch, seed: int, began: float) -> Tensor | None:
        """A start for a batch of which the noise can be read, or None; how exactly depends on the update's own type."""
        ends = math.inf if self.max_seconds is None else began + _READ * self.max_seconds
        reading = read_latents(observation, search.targets, seed, ends)
        if isinstance(reading, str):
            return None
        seconds = None if self.max_seconds is None else max(0.0, ends - time.perf_counter())
        images = images_below(observation, reading, seconds)
        return None if isinstance(images, str) else search.packed(images, reading.draws)

    def _below(
        self,
        below: Observation,
        reading: LatentReading,
        search: LatentSearch,
        seed: int,
        began: float,
        progress: Progress | None,
    ) -> Reconstruction:
        """The single example behind the network below the bottleneck."""
        from gradleak.attacks.auto import auto  # it has this attack among its own

        seconds = None if self.max_seconds is None else max(0.0, self.max_seconds - (time.perf_counter() - began))
        found = auto(restarts=self.restarts, max_evaluations=self.max_evaluations, max_seconds=seconds)(
            below, seed=seed, progress=progress
        )
        if found.status == "not_applicable":
            return not_applicable(self.name, search.observation, found.message)
        variable = found.variable.double()
        value = search.value(variable, reading.draws)
        return replace(
            found,
            targets=search.targets.argmax(dim=1),
            targets_given=search.observation.targets is not None,
            target_probabilities=search.targets,
            variable=variable,
            objective=value,
            status="converged" if value <= REPRODUCED else "budget" if value < float("inf") else "nonfinite",
            seconds=time.perf_counter() - began,
            attack=self.name,
            message=(
                f"{reading.noise.numel()} latent entries read from the bottleneck's gradients, and the image from the "
                f"layers below: {found.message}; with the noise the update is met to a relative squared error of "
                f"{value:.1e}"
            ),
        )

    def _together(
        self, search: LatentSearch, begun: Tensor | None, seed: int, began: float, progress: Progress | None
    ) -> Reconstruction:
        """Images and noise, from one start after the other."""
        ends = None if self.max_seconds is None else began + self.max_seconds
        total = _EVALUATIONS * self.restarts if self.max_evaluations is None else self.max_evaluations
        best: tuple[float, Tensor] | None = None
        used, courses = 0, list[Minimum]()
        for restart in range(self.restarts):
            left, now = (total - used) // (self.restarts - restart), time.perf_counter()
            if best is not None and (left < 3 or best[0] <= REPRODUCED or (ends is not None and now >= ends)):
                break
            seconds = None if ends is None else max(0.0, (ends - now) / (self.restarts - restart))
            point, spent, course = search.round(restart, seed, begun, max(1, left), seconds, progress)
            used, value = used + spent, search.value(*search.parted(point))
            courses += course
            best = (value, point) if best is None or value < best[0] else best
        assert best is not None
        value, point = best
        variable, draws = search.parted(point)
        entries = sum(noise.numel() for noise in draws.values())
        size = torch.cat([noise.flatten() for noise in draws.values()]).square().mean().sqrt()
        return Reconstruction(
            inputs=search.observation.task.space.decode(variable),
            targets=search.targets.argmax(dim=1),
            targets_given=search.observation.targets is not None,
            objective=value,
            evaluations=used,
            seconds=time.perf_counter() - began,
            status="converged" if value <= REPRODUCED else "budget" if value < float("inf") else "nonfinite",
            attack=self.name,
            variable=variable,
            target_probabilities=search.targets,
            message=(
                f"{entries} latent entries {'searched' if begun is None else 'read, then searched'} with the images, "
                f"whose noise ended at a size of {float(size):.2f} where 1 is expected; with it the update is met to a "
                f"relative squared error of {value:.1e}"
            ),
            history=joined_history(courses),
        )


def _door(observation: Observation) -> tuple[Observation, Gradient, Tensor] | str:
    """The observation as one gradient, its client and its targets; or why the attack does not apply."""
    if observation.update.is_empty:
        return "no evidence: every entry of the update is zero"
    if not bottlenecks(observation.task.model):
        return "it is for models with a variational bottleneck, and this one has none"
    count = observation.batch_size
    if count is None:
        return "the batch size is withheld, and this attack needs it"
    if observation.defenses is not None:  # the update itself is as the client made it
        others = tuple(defense for defense in observation.defenses if not isinstance(defense, Precode))
        observation = replace(observation, defenses=others)
    reduced = as_gradient(observation)
    if isinstance(reduced, str):
        return f"it is for a single gradient: {reduced}"
    client = Gradient(dropout="off") if reduced.client is None else reduced.client
    if not isinstance(client, Gradient) or client.micro_batch is not None:
        return "latents of micro-batches are not searched"
    targets = recovered_targets(reduced, count, "bias_sign" if count == 1 else "row_minimum")
    if isinstance(targets, str) or targets is None:
        return targets or "labels are needed"
    return reduced, client, targets


def precode_inversion(
    *, restarts: int = 2, max_evaluations: int | None = None, max_seconds: float | None = None
) -> PrecodeInversion:
    """Find the latent noise of a variational bottleneck and the images behind it.

    Args:
        restarts: starts one after the other, until one reproduces the update.
        max_evaluations: over all of them; None for 2,000 each where noise is searched.
        max_seconds: wall time; None for no limit.

    Returns:
        The attack; it applies to single gradients of models with a bottleneck, whatever is known of defenses.
    """
    return PrecodeInversion(restarts, max_evaluations, max_seconds)
