"""One energy for observations with and without a scale, and one search for all stages."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.inversion import observed_tensors
from gradleak.attacks.layout import Layout
from gradleak.attacks.local.features import FeatureProblem
from gradleak.attacks.objectives import Objective, cosine_distance
from gradleak.attacks.priors import mean_absolute_differences
from gradleak.attacks.protocol import Progress
from gradleak.attacks.purse import Purse
from gradleak.attacks.spectrum import weighted_frequencies
from gradleak.clients import Gradient
from gradleak.optim import Budget, Energy, Minimum, WolfeLBFGS, minimize, value_and_gradient
from gradleak.optim.stages import Coordinates, unchanged
from gradleak.threat import Observation, simulator

_SPECTRUM = 0.7
_MOMENTS = 8
_FEATURE_VARIATION = 1e-3


def is_scaleless(observation: Observation) -> bool:
    """Whether only the direction of the update is known."""
    return observation.client is None and observation.update.kind == "delta"


def matching_energy(observation: Observation, objective: Objective) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of a variable's update to the observed one, with the sign of a gradient where it has no scale.

    Args:
        observation: of one gradient, of local steps that are simulated, or without a scale.
        objective: must not look at the size where there is no scale.

    Returns:
        A function of the variable `[N, ...]` and target probabilities `[N, C]`.
    """
    if is_scaleless(observation):
        step = Gradient(dropout="off").bind(observation.task, observation.state)
        direction = observation.update.in_gradient_direction()
        observed = {name: tensor.to(observation.task.dtype) for name, tensor in direction.items()}
    else:
        step, observed = simulator(observation), dict(observed_tensors(observation))
    return lambda variable, targets: objective(step(variable, targets), observed)


@dataclass(frozen=True, eq=False)
class Images:
    """The coordinates in which images are searched.

    Attributes:
        layout: of the flat images.
        expand: from weighted frequencies to them.
        restrict: back.
    """

    layout: Layout
    expand: Coordinates
    restrict: Coordinates

    @staticmethod
    def of(observation: Observation, targets: Tensor) -> "Images":
        """Weighted frequencies for images, the variable itself for anything else."""
        layout = Layout.of(observation, len(targets), targets)
        if len(layout.variable_shape) != 4:
            return Images(layout, unchanged, unchanged)
        return Images(layout, *weighted_frequencies(layout, _SPECTRUM))

    def variable(self, point: Tensor) -> Tensor:
        """`[N, ...]` of a point."""
        return self.layout.unpack(self.expand(point))[0]

    def point(self, variable: Tensor) -> Tensor:
        """The point of a variable."""
        return self.restrict(self.layout.pack(variable, variable.new_zeros((len(variable), 0))))


def search(
    energy: Energy,
    start: Tensor,
    evaluations: int,
    purse: Purse,
    progress: Progress | None,
    target: float | None = None,
) -> Minimum | None:
    """L-BFGS from one point within what is left of the budget; None if nothing is left."""
    if purse.empty:
        return None
    used = purse.used
    ended = minimize(
        value_and_gradient(energy),
        start[None],
        optimizer=WolfeLBFGS(),
        budget=Budget(evaluations=purse.allowed(evaluations), seconds=purse.seconds(), target=target),
        moments=_MOMENTS,
        progress=None if progress is None else lambda count, best: progress(used + count, best),
    )
    purse.used += ended.evaluations
    return ended


def joint_energy(observation: Observation, images: Images, targets: Tensor, variation: float) -> Energy:
    """Cosine distance and total variation of a point."""
    distance = matching_energy(observation, cosine_distance)
    smooth = len(images.layout.variable_shape) == 4

    def energy(point: Tensor) -> Tensor:
        variable = images.variable(point)
        value = distance(variable, targets)
        return value + variation * mean_absolute_differences(variable) if smooth else value

    return energy


def grey_start(images: Images, generator: torch.Generator) -> Tensor:
    """Mid-grey with a little noise, which tells examples apart."""
    shape = images.layout.variable_shape
    variable = 0.5 + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return images.point(variable.to(images.layout.device, images.layout.dtype))


def feature_energy(observation: Observation, problem: FeatureProblem, coordinates: Tensor, images: Images) -> Energy:
    """Squared distance of the images' features to the separated ones, relative to their spread, and total variation."""
    wanted = problem.features(coordinates)
    center = problem.features(problem.mean)
    # Each image counts by its own spread, as nothing in this stage weighs one against another.
    spread = (wanted - center).square().sum(dim=1)
    space, smooth = observation.task.space, len(images.layout.variable_shape) == 4

    def energy(point: Tensor) -> Tensor:
        variable = images.variable(point)
        seen = space.forward(problem.trunk, {}, variable)
        value = ((seen - wanted).square().sum(dim=1) / spread).mean()
        return value + _FEATURE_VARIATION * mean_absolute_differences(variable) if smooth else value

    return energy
