"""Separate the features of a batch at a wide hidden layer, before any image is searched.

The weight gradient of a linear layer is `sum_n d_n x_n^T` over its inputs x, so its row space is spanned by them:
with N examples each input is a combination of N right singular vectors, `x_n = c_n V`, and only the N numbers c_n are
unknown. From them the layers above give every gradient from this layer on, which are far more equations than the
N^2 unknowns, and cheap ones: the network below is not run at all. Local steps move the features little, so the same
holds for a delta, with the singular vectors that stand out.

What is left is one problem an image: the input whose features are these.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradleak.attacks.head import find_head
from gradleak.attacks.labels.dummies import dummy_variables
from gradleak.attacks.surrogate import MIDDLE, surrogate_state
from gradleak.tasks import ModelState, TabularSpace, Task
from gradleak.threat import Observation
from gradleak.updates import Update

_DUMMIES = 512
# The dummies' covariance in directions that they hardly vary in, relative to the mean direction.
_RIDGE = 1e-9


@dataclass(frozen=True, eq=False)
class FeatureProblem:
    """Local training as seen from a hidden layer's inputs, in coordinates of their span.

    Attributes:
        observation: of the layers from the hidden one on, whose inputs are rows of N coordinates.
        basis: singular vectors, `[N, D]`.
        mean: of dummies' coordinates, `[N]`.
        factor: Cholesky factor of their covariance, `[N, N]`.
        trunk: the layers below, in the middle of the path.
        layer: name of the hidden layer.
    """

    observation: Observation
    basis: Tensor
    mean: Tensor
    factor: Tensor
    trunk: nn.Module
    layer: str

    def coordinates(self, latent: Tensor) -> Tensor:
        """Coordinates `[N, N]` of whitened ones, in which features of plausible images are of size 1."""
        return self.mean + latent @ self.factor.T

    def features(self, coordinates: Tensor) -> Tensor:
        """The layer's inputs `[N, D]`."""
        return coordinates @ self.basis


def feature_problem(observation: Observation, count: int) -> FeatureProblem | str:
    """Set the problem up, in the observation's precision.

    Args:
        observation: of a delta or a gradient.
        count: number of examples N.

    Returns:
        The problem, or why the model has no layer to separate the examples at.
    """
    task, state = observation.task, observation.state
    model = task.model
    head = find_head(task, state)
    if head is None or not isinstance(model, nn.Sequential):
        return "the model is not a sequence of layers with a linear classifier at its end"
    children = list(model.named_children())
    places = [place for place, (_, layer) in enumerate(children) if isinstance(layer, nn.Linear)]
    if len(places) < 2:
        return "there is no hidden linear layer below the classifier"
    place = places[-2]
    name, layer = children[place]
    assert isinstance(layer, nn.Linear)
    names = {f"{child}.{part}" for child, module in children[place:] for part, _ in module.named_parameters()}
    weight = f"{name}.weight"
    if any(full not in state.parameters for full in names):
        return "layers above the hidden linear layer are not trained or not sent"
    if count >= min(layer.weight.shape):
        return f"{count} examples span all of the hidden layer {name}, of shape {list(layer.weight.shape)}"
    trunk = copy.deepcopy(model[:place]).eval()
    prefixes = [f"{child}." for child, _ in children[:place]]
    middle = {**state.constants, **surrogate_state(observation, MIDDLE).parameters}
    below = {full: value for full, value in middle.items() if full.startswith(tuple(prefixes))}
    trunk.load_state_dict(below, strict=False)
    trunk.requires_grad_(False)
    basis = torch.linalg.svd(observation.update.tensors[weight].double(), full_matrices=False)[2][:count]
    basis = basis.to(observation.update.tensors[weight])
    top = copy.deepcopy(model[place:]).eval()
    narrow = nn.Linear(
        count, layer.out_features, bias=f"{name}.bias" in state.parameters, dtype=task.dtype, device=task.device
    )
    setattr(top, children[place][0], narrow)
    kept = [full for full in state.parameters if full in names]

    def projected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {full: tensors[full] @ basis.T if full == weight else tensors[full] for full in kept}

    constants = {full: value for full, value in state.constants.items() if not full.startswith(tuple(prefixes))}
    sub = replace(
        observation,
        task=Task(top, TabularSpace(count), task.num_classes, task.loss),
        state=ModelState(projected(state.parameters), constants),
        update=Update(projected(observation.update.tensors), observation.update.kind),
    )
    with torch.no_grad():
        dummies = dummy_variables(task.space, _DUMMIES, 0).to(task.device, task.dtype)
        seen = task.space.forward(trunk, {}, dummies) @ basis.T
    covariance = torch.cov(seen.T.double())
    covariance += _RIDGE * covariance.trace() * torch.eye(count, dtype=torch.float64, device=covariance.device)
    factor = torch.linalg.cholesky(covariance).to(seen)
    return FeatureProblem(sub, basis, seen.mean(dim=0), factor, trunk, name)
