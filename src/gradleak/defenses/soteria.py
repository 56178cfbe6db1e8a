"""Soteria: columns of one linear layer's gradient are withheld, by how its features depend on the input."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.defenses.feature_slopes import feature_slopes
from gradleak.defenses.preimage import Preimage
from gradleak.defenses.protocol import PrivateStep
from gradleak.errors import refuse
from gradleak.tasks import Task
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class Soteria:
    """Zero those columns of a linear layer's weight whose features score lowest (Sun et al., CVPR 2021).

    With r the features that enter the layer and x the input, feature f has the score `||dr_f/dx||_2 / (|r_f| +
    epsilon)`, in evaluation mode; scores are added over the batch, and over the positions at which a layer of a
    sequence acts, as the released code adds them over the batch. The columns whose sum is below the percentile are
    zeroed; the bias, and every other layer, are sent as they are. The released code divides by `r_f + 0.1` without the
    absolute value, which ranks negative features by another sign; for sigmoid and ReLU features, which are not
    negative, `epsilon=0.1` gives its ranking. Of a weight delta the same columns are zeroed, chosen at the model's
    values before the first local step. Scores cost one backward pass for each feature: at a LeNet on 32 x 32 images and
    a batch of 32 about as much as 250 steps of training, see `feature_slopes`.

    An attacker who knows this defense learns nothing from a column of zeros, and loses no more than that: the bias and
    the layers before are untouched (Balunovic et al., ICLR 2022).

    Args:
        percent: of the columns that are withheld, in [0, 100).
        layer: name of the module; None for the last matrix of the update, which must belong to a linear layer.
        epsilon: added to the size of a feature, positive.
    """

    percent: float = 80.0
    layer: str | None = None
    epsilon: float = 1e-10

    def problems(self) -> list[str]:
        """A percentage outside [0, 100), or an epsilon that is not positive."""
        found: list[str] = []
        if not 0 <= self.percent < 100:
            found.append(
                f"Soteria.percent: expected at least 0 and below 100, got {self.percent}; the published value is 80"
            )
        if not 0 < self.epsilon < float("inf"):
            found.append(f"Soteria.epsilon: expected a positive number, got {self.epsilon}; 1e-10 only avoids 0 / 0")
        return found

    def step_problems(self, task: Task) -> list[str]:
        """A layer that the model does not have, that is not linear, or that is not trained."""
        linear = [
            name
            for name, module in task.model.named_modules()
            if isinstance(module, nn.Linear) and module.weight.requires_grad
        ]
        known = ", ".join(map(repr, linear)) or "none"
        if self.layer is not None:
            if self.layer in linear:
                return []
            return [f"Soteria.layer: expected a trained linear layer, got {self.layer!r}; the model's are: {known}"]
        trained = {name: value for name, value in task.model.named_parameters() if value.requires_grad}
        last = _last_matrix(trained)
        if last is not None and _module_of(last) in linear:
            return []
        return [
            f"Soteria.layer: expected the last matrix of the update to be a linear layer's weight, got {last!r}; "
            f"name the layer, the model's are: {known}"
        ]

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The update as it is: which columns are withheld is known at the step alone."""
        del kind, generator
        return dict(tensors)

    def apply_to_step(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, step: PrivateStep, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Zeros in the columns whose score is below the percentile."""
        del kind, generator
        weight = self._weight(tensors)
        if weight is None:
            return dict(tensors)
        name = _module_of(weight)
        if not isinstance(dict(step.task.model.named_modules()).get(name), nn.Linear):
            refuse([f"Soteria.layer: expected {weight!r} to be a linear layer's weight; name a layer that is sent"])
        scores = feature_scores(step, name, self.epsilon)
        kept = scores >= torch.quantile(scores, self.percent / 100)
        return {**tensors, weight: tensors[weight] * kept.to(tensors[weight])}

    def preimage(self, after: Preimage) -> Preimage:
        """A column in which nothing but zeros is possible, or zeros among others, may have been anything."""
        weight = None if self.percent == 0 else self._weight(after.lower)

        def change(name: str, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            if name != weight:
                return lower, upper
            withheld = ((lower <= 0) & (upper >= 0)).all(dim=0)
            return torch.where(withheld, -torch.inf, lower), torch.where(withheld, torch.inf, upper)

        return after.widened(change)

    def _weight(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Name of the defended weight; None where it is not sent."""
        if self.layer is None:
            return _last_matrix(tensors)
        name = f"{self.layer}.weight" if self.layer else "weight"
        return name if name in tensors else None


def feature_scores(step: PrivateStep, layer: str, epsilon: float) -> Tensor:
    """How much each feature that enters a linear layer says about the input, for its size.

    Args:
        step: of the client.
        layer: name of the linear layer.
        epsilon: added to the size of a feature.

    Returns:
        `||dr_f/dx||_2 / (|r_f| + epsilon)`, summed over examples and positions, `[D]`.
    """
    features, slopes = feature_slopes(step, layer)
    return (slopes / (features.abs() + epsilon)).sum(dim=(0, 1))


def _last_matrix(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the last tensor with rows and columns."""
    matrices = [name for name, tensor in tensors.items() if tensor.dim() == 2]
    return matrices[-1] if matrices else None


def _module_of(weight: str) -> str:
    """The module that a weight belongs to."""
    return weight.rpartition(".")[0] if weight.rpartition(".")[2] == "weight" else weight
