"""What defenses with error feedback keep from step to step, for every worker or client by itself."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gradleak.defenses import LooksAtStep, PrivateStep
from gradleak.seeds import stage_generator
from gradleak.training.defending import Defending
from gradleak.updates import UpdateKind

MEMORY = "memory/"
"""Prefix of the names of tensors to go on from: `memory/SENDER/POSITION/NAME`."""


@runtime_checkable
class KeepsMemory(Protocol):
    """A defense with error feedback: what was held back in one step is sent in a later one."""

    def start(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The memory before the first step, for updates of these shapes."""
        ...

    def advance(
        self,
        memory: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        kind: UpdateKind,
        generator: torch.Generator | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What is sent, and the memory after it."""
        ...


class Memories:
    """Nothing at the start; what is kept is a part of the place to go on from."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], dict[str, Tensor]] = {}

    def sent(
        self,
        defending: Defending,
        tensors: Mapping[str, Tensor],
        kind: UpdateKind,
        step: PrivateStep | None,
        seed: int,
        sender: int,
    ) -> dict[str, Tensor]:
        """The defended update of one sender, whose memory is carried forward.

        Args:
            defending: the defenses, bound to the task.
            tensors: the update by name; unchanged.
            kind: what it is.
            step: for defenses that look at it.
            seed: of the defenses' private randomness in this step.
            sender: number of the worker or client.

        Returns:
            New tensors by name.
        """
        if not any(isinstance(defense, KeepsMemory) for defense in defending.defenses):
            return defending.update(tensors, kind, step, seed)
        sent = dict(tensors)
        with torch.no_grad():
            for position, defense in enumerate(defending.defenses):
                generator = stage_generator(seed, f"defense/{position}")
                if isinstance(defense, KeepsMemory):
                    place = sender, position
                    before = self._kept.get(place) or defense.start(sent)
                    sent, self._kept[place] = defense.advance(before, sent, kind, generator)
                elif not isinstance(defense, LooksAtStep):
                    sent = defense.apply(sent, kind, generator)
                elif step is not None:
                    sent = defense.apply_to_step(sent, kind, step, generator)
        return sent

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything that is kept, by name."""
        return {
            f"{MEMORY}{sender}/{position}/{name}": tensor.clone()
            for (sender, position), memory in self._kept.items()
            for name, tensor in memory.items()
        }

    def go_on(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what was kept, among other tensors to go on from."""
        self._kept = {}
        for key, tensor in tensors.items():
            if key.startswith(MEMORY):
                sender, position, name = key.removeprefix(MEMORY).split("/", 2)
                self._kept.setdefault((int(sender), int(position)), {})[name] = tensor.clone()
