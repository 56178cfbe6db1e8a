"""Clipping: the whole update is scaled down to a norm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage
from gradleak.defenses.scope import Scope, scope_problems
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class Clip:
    """Multiply the update by `min(1, norm / ||g||)`.

    The norm is that of the update of the whole batch. Clipping it and adding noise is not differential privacy, which
    needs the norm of every example's own gradient: that is the client `DPSGD`.

    Args:
        norm: largest Euclidean norm, in the update's own units; above 0, infinity for no clipping.
        scope: `"global"`: the norm of all tensors together; `"layer"`: of each tensor.
    """

    norm: float
    scope: Scope = "global"

    def problems(self) -> list[str]:
        """A norm that is not above 0, or an unknown scope."""
        found: list[str] = []
        if not self.norm > 0:
            found.append(f"Clip.norm: expected a norm above 0, got {self.norm}; infinity does not clip")
        found += scope_problems("Clip", self.scope)
        return found

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Scaled tensors, differentiable everywhere but where the norm is exactly the limit."""
        del kind, generator
        if self.scope == "layer":
            return {name: tensor * self._factor([tensor]).to(tensor.dtype) for name, tensor in tensors.items()}
        factor = self._factor(list(tensors.values()))
        return {name: tensor * factor.to(tensor.dtype) for name, tensor in tensors.items()}

    def preimage(self, after: Preimage) -> Preimage | None:
        """No statement for single entries, except where the scale is unknown anyway: then clipping changed nothing."""
        return after if after.sizes is not None else None

    def _factor(self, tensors: Sequence[Tensor]) -> Tensor:
        # In float64, since squares of small float32 entries vanish. At zero, a square root has no gradient, so it is
        # only taken where the clip acts.
        squared = torch.stack([tensor.double().square().sum() for tensor in tensors]).sum()
        acts = squared > self.norm * self.norm
        return torch.where(acts, self.norm * torch.where(acts, squared, 1).rsqrt(), 1)
