"""What defenses with error feedback keep from step to step, for every worker or client by itself."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gradleak.defenses import KeepsMemory, LooksAtStep, Memory, PrivateStep
from gradleak.seeds import stage_generator
from gradleak.training.defending import Defending
from gradleak.updates import UpdateKind

MEMORY = "memory/"
"""Prefix of the names of tensors to go on from: `memory/SENDER/POSITION/ROUNDS/PART/NAME`."""


class Memories:
    """Nothing at the start; what is kept is a part of the place to go on from."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[int, Memory]] = {}

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
                    number, before = self._kept.get(place) or (0, defense.start(sent))
                    sent, after = defense.advance(sent, before, number)
                    self._kept[place] = number + 1, after
                elif not isinstance(defense, LooksAtStep):
                    sent = defense.apply(sent, kind, generator)
                elif step is not None:
                    sent = defense.apply_to_step(sent, kind, step, generator)
        return sent

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything that is kept, by name."""
        return {
            f"{MEMORY}{sender}/{position}/{rounds}/{name}": tensor.clone()
            for (sender, position), (rounds, memory) in self._kept.items()
            for name, tensor in memory.flat().items()
        }

    def go_on(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what was kept, among other tensors to go on from."""
        found: dict[tuple[int, int, int], dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(MEMORY):
                sender, position, rounds, name = key.removeprefix(MEMORY).split("/", 3)
                found.setdefault((int(sender), int(position), int(rounds)), {})[name] = tensor.clone()
        self._kept = {place[:2]: (place[2], Memory.of_flat(flat)) for place, flat in found.items()}
