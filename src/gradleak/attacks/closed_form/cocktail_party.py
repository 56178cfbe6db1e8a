"""Recognizable batches from the gradient of a linear layer by independent component analysis."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.closed_form.linear_layer import Entry, find_entry
from gradleak.attacks.closed_form.relu_algebra import factorize
from gradleak.attacks.labels import targets_of
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.linalg import singular_values_above_rounding
from gradleak.reconstructions import Reconstruction
from gradleak.seeds import stage_generator
from gradleak.tasks import ImageSpace
from gradleak.threat import Observation

_CONVERGED = 1e-7
_SIZES = 400
# Of the range of pixels: how far they may leave it in the root mean square, as the separation is not exact, and the
# standard deviation of everyday photographs.
_EXCESS = 0.04
_USUAL_CONTRAST = 0.2
# Of the seconds, what the components may take; the rest is for their signs and sizes.
_SEARCH_SHARE = 0.7


@dataclass(frozen=True, eq=False)
class Components:
    """Independent components of mixtures.

    Attributes:
        unmixing: rows that take one component each out of the mixtures, `[N, N]`.
        contrast: mean negentropy of the components; larger is less Gaussian.
        steps: fixed-point steps used.
    """

    unmixing: Tensor
    contrast: float
    steps: int


def independent_components(
    mixtures: Tensor, generator: torch.Generator, *, max_steps: int = 300, deadline: float = torch.inf
) -> Components:
    """Symmetric FastICA with the nonlinearity `u exp(-u^2 / 2)` for sparse sources (Hyvarinen 1999, equation 20).

    Args:
        mixtures: `[N, T]`, of rank N and mean about 0.
        generator: draws the first directions.
        max_steps: fixed-point steps at most.
        deadline: value of `time.perf_counter()` at which to stop.

    Returns:
        The components, in no particular order, sign or scale.
    """
    count, samples = mixtures.shape
    values, vectors = torch.linalg.eigh(mixtures @ mixtures.T / samples)
    whitening = (vectors / values.clamp_min(1e-12 * float(values[-1])).sqrt()).T
    white = whitening @ mixtures
    rotation = torch.linalg.qr(torch.randn((count, count), generator=generator, dtype=torch.float64))[0]
    steps = 0
    change = torch.inf
    while steps < max_steps and change >= _CONVERGED and time.perf_counter() < deadline:
        steps += 1
        sources = rotation @ white
        bell = torch.exp(-0.5 * sources.square())
        moved = (sources * bell) @ white.T / samples
        moved = moved - ((1 - sources.square()) * bell).mean(dim=1)[:, None] * rotation
        left, _, right = torch.linalg.svd(moved)
        turned = left @ right
        change = float((1 - (turned * rotation).sum(dim=1).abs()).max())
        rotation = turned
    bell = torch.exp(-0.5 * (rotation @ white).square()).mean(dim=1)
    # The mean of the bell over a standard normal variable is 1 / sqrt(2).
    return Components(rotation @ whitening, float((bell - 0.5**0.5).square().mean()), steps)


def neighbor_differences(images: Tensor) -> Tensor:
    """Differences of horizontal and vertical neighbors, `[N, T]`, of images `[N, C, H, W]`.

    Pixels of different photographs depend on each other through common layouts (bright above, dark below), which is
    what makes them hard to tell apart; their edges are sparse and hardly depend on each other.

    Returns:
        One row for each image.
    """
    return torch.cat(
        [(images[..., 1:] - images[..., :-1]).flatten(1), (images[..., 1:, :] - images[..., :-1, :]).flatten(1)], dim=1
    )


@dataclass(frozen=True)
class CocktailParty:
    """The attack of `cocktail_party`."""

    restarts: int
    max_steps: int
    max_seconds: float | None
    name: str = "cocktail_party"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        del progress
        began = time.perf_counter()
        space = observation.task.space
        if not isinstance(space, ImageSpace):
            return not_applicable(self.name, observation, "the components are told apart by their edges: images only")
        entry = find_entry(observation.task, observation.state)
        if entry is None:
            return not_applicable(self.name, observation, "no linear layer receives the input itself")
        gradient = observation.update.in_gradient_direction()[entry.weight]
        rank = singular_values_above_rounding(gradient)
        count = observation.batch_size or rank
        if rank < count or count >= min(gradient.shape):
            return not_applicable(
                self.name,
                observation,
                f"the gradient of {entry.weight} has rank {rank} of {min(gradient.shape)}, for {count} examples",
            )
        deadline = torch.inf if self.max_seconds is None else began + self.max_seconds
        if time.perf_counter() >= deadline:
            return not_applicable(self.name, observation, "the time is spent")
        factors = factorize(gradient, count)
        lengths = factors.right.norm(dim=1, keepdim=True)
        mixtures = factors.right / lengths
        if self.max_seconds is not None:
            deadline -= (1 - _SEARCH_SHARE) * max(0.0, deadline - time.perf_counter())
        best = self._components(_edges(entry, space, mixtures), seed, deadline)
        bias = None if entry.bias is None else observation.update.in_gradient_direction()[entry.bias]
        sizes = None if bias is None else sizes_from_bias(factors.left * lengths.T, best.unmixing, bias)
        variable = fit_to_bounds(entry, space, best.unmixing @ mixtures, sizes)
        message = f"{count} independent components after {best.steps} steps"
        return answer(self.name, observation, variable, targets_of(observation, variable), began=began, message=message)

    def _components(self, edges: Tensor, seed: int, deadline: float) -> Components:
        """The restart with the least Gaussian components."""
        found = [
            independent_components(
                edges, stage_generator(seed, f"attack/start/{restart}"), max_steps=self.max_steps, deadline=deadline
            )
            for restart in range(self.restarts)
        ]
        return max(found, key=lambda components: components.contrast)


def _edges(entry: Entry, space: ImageSpace, mixtures: Tensor) -> Tensor:
    """Neighbor differences of mixtures of layer inputs, in pixel units; the offsets cancel."""
    pixels = torch.empty_like(mixtures).index_copy_(1, entry.order, mixtures / entry.scale)
    return neighbor_differences(pixels.reshape(-1, *space.shape))


def sizes_from_bias(left: Tensor, unmixing: Tensor, bias_gradient: Tensor) -> Tensor:
    """What each component must be multiplied with, `[N]`: `dW = left C` and `db = D 1` with `D = left unmixing^-1 / s`.

    Args:
        left: `[m, N]`, with which the mixtures give the weight gradient.
        unmixing: `[N, N]`, from mixtures to components.
        bias_gradient: `[m]`.

    Returns:
        Factors with their signs; about right also where the separation is not exact.
    """
    columns = left @ torch.linalg.inv(unmixing)
    return 1 / torch.linalg.lstsq(columns, bias_gradient.double()[:, None], driver="gelsd").solution[:, 0]


def fit_to_bounds(entry: Entry, space: ImageSpace, components: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Images `[N, C, H, W]` from layer inputs known up to sign and size, `[N, n]`.

    Without sizes, the sign is the one that leaves the bounds less at a usual contrast, and the size as large as the
    bounds allow; a sign cannot be told where the layer receives an image and its negative alike.

    Args:
        entry: how pixels enter the layer.
        space: with the bounds.
        components: layer inputs, each multiplied with an unknown number.
        sizes: estimates of what to multiply them with, `[N]`; made smaller where they leave the bounds.

    Returns:
        Images in pixel units, not clamped.
    """
    largest = components.abs().amax(dim=1)
    images: list[Tensor] = []
    for index, component in enumerate(components / largest[:, None]):
        if sizes is None:
            sign = min((1.0, -1.0), key=lambda sign: _fit(entry, space, sign * component)[0])
            size = sign * _fit(entry, space, sign * component)[1]
        else:
            wanted = float(sizes[index] * largest[index])
            sign = 1.0 if wanted > 0 else -1.0
            size = sign * min(abs(wanted), _fit(entry, space, sign * component)[1])
        images.append(entry.variable(size * component[None], space.shape)[0])
    return torch.stack(images)


def _fit(entry: Entry, space: ImageSpace, direction: Tensor) -> tuple[float, float]:
    """How far an image leaves its bounds at a usual contrast, and the largest size at which it hardly does."""
    low, high = space.bounds
    ladder = torch.logspace(-3, 2, _SIZES, dtype=torch.float64) * (high - low) * float(entry.scale.abs().max())
    pixels = (ladder[:, None] * direction - entry.offset) / entry.scale
    excess = (pixels - pixels.clamp(low, high)).square().mean(dim=1).sqrt() / (high - low)
    usual = int((pixels.std(dim=1) / (high - low) - _USUAL_CONTRAST).abs().argmin())
    allowed = (excess <= _EXCESS).nonzero()[:, 0]
    return float(excess[usual]), float(ladder[int(allowed.max()) if len(allowed) else 0])


def cocktail_party(
    *,
    max_steps: int = 300,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = 60.0,
) -> CocktailParty:
    """Recognizable images of a batch from a linear first layer, of any size below the layer's (Kariyappa et al. 2023).

    The rows of the layer's gradient are mixtures of the inputs, and the inputs are told apart as independent
    components. Unlike the paper, which searches components with priors on pixels, this runs a fixed-point ICA on
    differences of neighboring pixels, which needs neither priors nor tuning. Images are exact in neither.

    Args:
        max_steps: fixed-point steps.
        restarts: independent starts; the one with the least Gaussian components is returned.
        max_evaluations: accepted like by every attack; one is used, to compare the result with the update.
        max_seconds: wall time of the search; None for no limit.

    Returns:
        The attack.
    """
    del max_evaluations
    return CocktailParty(restarts, max_steps, max_seconds)
