"""What defenses with error feedback keep from step to step, for every worker or client by itself."""

from collections.abc import Mapping

from torch import Tensor

from gradleak.defenses import PrivateStep
from gradleak.training.defending import Defending
from gradleak.updates import UpdateKind

MEMORY = "memory/"
"""Prefix of the names of tensors to go on from."""


class Memories:
    """Nothing at the start; what is kept is a part of the place to go on from."""

    def sent(
        self,
        defending: Defending,
        tensors: Mapping[str, Tensor],
        kind: UpdateKind,
        step: PrivateStep | None,
        seed: int,
        sender: int,
    ) -> dict[str, Tensor]:
        """The defended update of one sender, whose memory is carried forward."""
        del sender
        return defending.update(tensors, kind, step, seed)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything that is kept, by name."""
        return {}

    def go_on(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what was kept, among other tensors to go on from."""
