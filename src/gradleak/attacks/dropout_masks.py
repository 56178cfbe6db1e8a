"""The masks of random dropout as unknowns, and those that an update shows.

Behind a dropout layer, a linear layer's weight gradient has zeros in the columns of what was dropped, exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.clients.stateless import GivenMask
from gradleak.clients.step import BoundStep
from gradleak.seeds import stage_generator
from gradleak.threat import Observation


@dataclass(frozen=True, eq=False)
class MaskLayout:
    """How the masks lie in a flat vector, and what is known about them.

    Attributes:
        shapes: by name, in order, `[N, ...]`.
        low: lower bounds of all masks, flat `[M]`.
        high: upper bounds; where both agree the mask is known.
        kept: flat, the value of an entry that was kept, `1 / (1 - p)`.
        examples: flat, which mask of which example each entry belongs to, for the penalty.
    """

    shapes: dict[str, torch.Size]
    low: Tensor
    high: Tensor
    kept: Tensor
    examples: Tensor

    @staticmethod
    def of(observation: Observation, step: BoundStep, variable: Tensor) -> "MaskLayout":
        """The masks of a batch; a single example's are read from linear layers where they can be."""
        shapes = _mask_shapes(step, variable)
        dropped = _dropped(observation, step, variable) if len(variable) == 1 else {}
        low, high, kept, examples = (list[Tensor]() for _ in range(4))
        groups = 0
        for name, (shape, probability) in shapes.items():
            size, value = shape.numel(), 1 / (1 - probability)
            kept.append(torch.full((size,), value))
            zero = dropped.get(name)
            high.append(kept[-1] if zero is None else kept[-1] * ~zero)
            low.append(torch.zeros(size) if zero is None else high[-1])
            examples.append(groups + torch.arange(shape[0]).repeat_interleave(size // shape[0]))
            groups += shape[0]
        lowest, highest, values = (torch.cat(parts).to(variable) for parts in (low, high, kept))
        named = {name: shape for name, (shape, _) in shapes.items()}
        return MaskLayout(named, lowest, highest, values, torch.cat(examples))

    @property
    def known(self) -> int:
        """How many entries are read from the update."""
        return int((self.low == self.high).sum())

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Masks by name."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), flat.split(sizes), strict=True)
        }

    def penalty(self, flat: Tensor) -> Tensor:
        """Mean over masks of `|mean(M) - (1 - p)|` with M between 0 and 1, as published."""
        count = torch.bincount(self.examples).to(flat)
        means = torch.zeros_like(count).index_add(0, self.examples.to(flat.device), (flat - 1) / self.kept)
        return (means / count).abs().mean()

    def rounded(self, flat: Tensor) -> Tensor:
        """Every entry dropped or kept."""
        return torch.where(flat > self.kept / 2, self.kept, 0).clamp(self.low, self.high)

    def first(self, restart: int, seed: int) -> Tensor:
        """The mean mask for restart 0, drawn ones for others."""
        if restart == 0:
            return torch.ones_like(self.kept).clamp(self.low, self.high)
        generator = stage_generator(seed, f"attack/masks/{restart}")
        drawn = torch.rand(self.kept.shape, generator=generator, dtype=torch.float64).to(self.kept)
        return torch.where(drawn < 1 / self.kept, self.kept, 0).clamp(self.low, self.high)


def _mask_shapes(step: BoundStep, variable: Tensor) -> dict[str, tuple[torch.Size, float]]:
    """Shape `[N, ...]` of each mask, by name, and the probability with which an entry is dropped."""
    return {
        name: (draw.shape, draw.layer.probability)
        for name, draw in step.draws(variable).items()
        if isinstance(draw.layer, GivenMask)
    }


def _dropped(observation: Observation, step: BoundStep, variable: Tensor) -> dict[str, Tensor]:
    """For masks that enter a linear layer directly: which entries of a single example were dropped, flat booleans."""
    made: dict[int, str] = {}
    found: dict[str, Tensor] = {}
    handles = list[torch.utils.hooks.RemovableHandle]()
    kept = list[Tensor]()  # so that no later tensor takes the place of one that is compared
    shapes = _mask_shapes(step, variable)

    def leaving(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def record(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
            made[output.data_ptr()] = name
            kept.append(output)

        return record

    def entering(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            mask = made.get(inputs[0].data_ptr())
            gradient = observation.update.tensors.get(f"{name}.weight" if name else "weight")
            if mask is not None and gradient is not None and shapes[mask][0].numel() == gradient.shape[1]:
                found[mask] = gradient.abs().amax(dim=0) == 0

        return record

    for name, layer in step.copied.module.named_modules():
        if f"{name}.mask".lstrip(".") in shapes:
            handles.append(layer.register_forward_hook(leaving(f"{name}.mask".lstrip("."))))
        elif isinstance(layer, nn.Linear):
            handles.append(layer.register_forward_pre_hook(entering(name)))
    targets = torch.full((len(variable), step.task.num_classes), 1 / step.task.num_classes).to(variable)
    with torch.no_grad():
        step.loss(step.parameters, variable, targets, {})
    for handle in handles:
        handle.remove()
    return found
