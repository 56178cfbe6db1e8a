"""What a defense is: a change that the client makes on purpose to what it sends."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from gradleak.updates import UpdateKind


class Defense(Protocol):
    """A change to the update before it is sent.

    Defenses are plain functions of the update: they keep no hidden state, and they are applied in the order given.
    """

    def problems(self) -> list[str]:
        """Settings outside their range, one line each."""
        ...

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The defended update.

        Args:
            tensors: the update by name.
            kind: what the tensors are.
            generator: the defense's private randomness; None gives the deterministic part, which is all that an
                attacker who knows the defense can simulate.

        Returns:
            New tensors by name; the given ones are unchanged.
        """
        ...
