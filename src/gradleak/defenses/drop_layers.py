"""Dropping whole tensors of the update."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage
from gradleak.tasks import Task
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class DropLayers:
    """Send zero in place of the tensors that fit a pattern.

    A tensor of zeros still tells its name and shape, and the server averages it in. A client that sends no such tensor
    at all is `Gradient(sent=...)`.

    Args:
        layers: patterns of parameter names, such as `("conv1.*", "*.bias")`; `*`, `?` and `[...]` as in a shell.
    """

    layers: tuple[str, ...]

    def problems(self) -> list[str]:
        """No patterns, or a word in place of them."""
        if isinstance(self.layers, str):
            return [f"DropLayers.layers: expected a tuple of patterns, got the word {self.layers!r}; put it in one"]
        return [] if self.layers else ["DropLayers.layers: expected at least one pattern, got none; name a layer"]

    def task_problems(self, task: Task) -> list[str]:
        """Patterns that fit no trained parameter."""
        trained = list(task.state().parameters)
        return [
            f"DropLayers.layers: expected patterns of trained parameters ({', '.join(trained[:3])}, ...), got "
            f"{pattern!r}, which fits none; correct it"
            for pattern in self.layers
            if not fnmatch.filter(trained, pattern)
        ]

    def drops(self, name: str) -> bool:
        """Whether this tensor is not sent."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.layers)

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The others, and zeros."""
        del kind, generator
        # A product, so that a search through this still finds the tensor in its graph.
        return {name: tensor * 0 if self.drops(name) else tensor for name, tensor in tensors.items()}

    def preimage(self, after: Preimage) -> Preimage:
        """A dropped tensor may have been anything, the others are as they were."""

        def change(name: str, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            if not self.drops(name):
                return lower, upper
            return torch.full_like(lower, -torch.inf), torch.full_like(upper, torch.inf)

        return after.widened(change)
