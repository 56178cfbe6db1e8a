"""How the unknowns of an attack lie in one flat vector, at full and at reduced resolution."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gradleak.threat import Observation


@dataclass(frozen=True, eq=False)
class Layout:
    """Example after example, each its variable and then its target logits, where targets are unknown.

    With one example this is the order in which the released DLG code hands its unknowns to the optimizer.

    Attributes:
        variable_shape: `[N, ...]`.
        target_shape: of one example's target probabilities, `(C,)`, or `(T, C)` where every token is classified.
        fixed_targets: target probabilities `[N, C]` that are not searched, or None if they are.
        dtype: of the flat vector.
        device: of the flat vector.
        derived: targets from the variable, where they follow from it, as in causal language models; None elsewhere.
        classes: the only ones that searched targets may have, indices; None for all.
        gate: from the variable how probable it is that a position has a target, `[N, T]`; None where that is searched.

    Where every token is classified and targets are searched, each position has one more unknown: the logit of having a
    target at all, since most positions of a masked language model have none.
    """

    variable_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    fixed_targets: Tensor | None
    dtype: torch.dtype
    device: torch.device
    derived: Callable[[Tensor], Tensor] | None = None
    classes: Tensor | None = None
    gate: Callable[[Tensor], Tensor] | None = None

    @staticmethod
    def of(observation: Observation, batch_size: int, fixed_targets: Tensor | None) -> "Layout":
        """The layout of a batch of this task, in the model's precision and on its device."""
        task = observation.task
        shape = (batch_size, *task.space.variable_shape)
        return Layout(shape, task.target_shape, fixed_targets, task.dtype, task.device)

    @property
    def logits_shape(self) -> tuple[int, int]:
        """`(N, C)`, or `(N, 0)` where targets are not searched; `(N, T * (C + 1))` where every token is classified."""
        if self.fixed_targets is not None or self.derived is not None:
            return self.variable_shape[0], 0
        return self.variable_shape[0], math.prod(self.target_shape[:-1]) * self.logits_each

    @property
    def logits_each(self) -> int:
        """Logits of one target."""
        searched = self.target_shape[-1] if self.classes is None else len(self.classes)
        return searched + self._searches_gate

    @property
    def _searches_gate(self) -> bool:
        return len(self.target_shape) > 1 and self.gate is None

    def pack(self, variable: Tensor, logits: Tensor) -> Tensor:
        """Flat vector `[D]` of a variable `[N, ...]` and logits `[N, C or 0]`."""
        return torch.cat([variable.flatten(1), logits], dim=1).flatten().to(self.device, self.dtype)

    def split(self, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Variable `[N, ...]` and logits `[N, C or 0]` of a flat vector `[D]`."""
        rows = candidate.view(self.variable_shape[0], -1)
        size = rows.shape[1] - self.logits_shape[1]
        return rows[:, :size].reshape(self.variable_shape), rows[:, size:]

    def unpack(self, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Variable `[N, ...]` and target probabilities `[N, C]` of a flat vector `[D]`."""
        variable, logits = self.split(candidate)
        if self.fixed_targets is not None:
            return variable, self.fixed_targets
        if self.derived is not None:
            return variable, self.derived(variable)
        found = self._searched(logits)
        return variable, found if self.gate is None else found * self.gate(variable)[..., None]

    def _searched(self, logits: Tensor) -> Tensor:
        """Target probabilities of logits."""
        logits = logits.reshape(len(logits), *self.target_shape[:-1], self.logits_each)
        found = torch.softmax(logits[..., :-1] if self._searches_gate else logits, dim=-1)
        if self._searches_gate:
            found = found * torch.sigmoid(logits[..., -1:])
        if self.classes is None:
            return found
        places = nn.functional.one_hot(self.classes.to(found.device), self.target_shape[-1]).to(found.dtype)
        return found @ places

    def box(self, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of every unknown, each `[D]`; logits have none."""
        ends: list[Tensor] = []
        for bound, free in ((low, -torch.inf), (high, torch.inf)):
            ends.append(self.pack(torch.full(self.variable_shape, bound), torch.full(self.logits_shape, free)))
        return ends[0], ends[1]

    def coarser(self, size: tuple[int, int]) -> "Layout":
        """The layout of images `[N, channels, *size]` instead of `[N, channels, H, W]`."""
        return replace(self, variable_shape=(*self.variable_shape[:2], *size))

    def resized(self, candidate: Tensor, other: "Layout") -> Tensor:
        """The flat vector of another resolution: averaged over areas where smaller, bilinear where larger."""
        variable, logits = self.split(candidate)
        size = other.variable_shape[2:]
        if size[0] <= self.variable_shape[2]:
            images = interpolate(variable, size, mode="area")
        else:
            images = interpolate(variable, size, mode="bilinear", align_corners=False)
        return torch.cat([images.flatten(1), logits], dim=1).flatten()
