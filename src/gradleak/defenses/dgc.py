"""Deep gradient compression: pruning with momentum and error feedback."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.defenses.clip import Clip
from gradleak.defenses.memory import Memory
from gradleak.defenses.preimage import Preimage
from gradleak.defenses.scope import Scope, scope_problems
from gradleak.defenses.top_k import TopK
from gradleak.updates import UpdateKind

WARMUP = (0.25, 0.0625, 0.015625, 0.004)
"""Shares sent in the first four epochs of the paper, before 0.001: sparsity 75, 93.75, 98.4375 and 99.6 %."""


@dataclass(frozen=True)
class DGC:
    """Deep gradient compression (Lin et al. 2018, sections 3.2 and 3.3).

    In each round, with g the client's update, clipped to `clip / sqrt(clients)`:
    `u <- momentum u + g`, `v <- v + u`; the largest entries of v are sent, and u and v are set to 0 there. What was not
    sent waits in v. The server adds up what it gets, without momentum of its own.

    An audit captures the first round, with an empty memory, which is pruning of the clipped update. Later rounds send
    what waited as well, so that what arrives mixes the batches of many rounds: attacks that take the update of a later
    round for that of one batch are wrong about it, and no attack here goes through several rounds.

    Args:
        keep: share of the entries that are sent, in (0, 1], after the warm-up.
        momentum: at least 0 and below 1; 0 for none.
        clip: largest norm of a client's update, before the division by `sqrt(clients)`; None for no clipping.
        clients: number of clients in a round, at least 1.
        masking: whether u is set to 0 where v was sent ("momentum factor masking").
        warmup: shares sent before `keep`, one for each stage; `dgc.WARMUP` are those of the paper, none the default.
        warmup_rounds: rounds in a stage of the warm-up; those of an epoch in the paper.
        scope: `"layer"`: the largest of each tensor, as in the paper; `"global"`: of the whole update.
    """

    keep: float = 0.001
    momentum: float = 0.9
    clip: float | None = None
    clients: int = 1
    masking: bool = True
    warmup: tuple[float, ...] = ()
    warmup_rounds: int = 1
    scope: Scope = "layer"

    def problems(self) -> list[str]:
        """Settings outside their range."""
        found = [
            f"DGC.{name}: expected shares above 0 and at most 1, got {share}; sparsity of 99.9 % is 0.001"
            for name, share in (("keep", self.keep), *(("warmup", share) for share in self.warmup))
            if not 0 < share <= 1
        ]
        if not 0 <= self.momentum < 1:
            found.append(f"DGC.momentum: expected at least 0 and below 1, got {self.momentum}; 0 is none")
        if self.clip is not None and not self.clip > 0:
            found.append(f"DGC.clip: expected a norm above 0, got {self.clip}; None does not clip")
        found += [
            f"DGC.{name}: expected at least 1, got {count}; correct it"
            for name, count in (("clients", self.clients), ("warmup_rounds", self.warmup_rounds))
            if count < 1
        ]
        found += scope_problems("DGC", self.scope)
        return found

    def share(self, round_number: int) -> float:
        """The share of the entries that is sent in a round.

        Args:
            round_number: from 0.

        Returns:
            That of the warm-up's stage, or `keep` after it.
        """
        stage = round_number // self.warmup_rounds
        return self.warmup[stage] if stage < len(self.warmup) else self.keep

    def start(self, tensors: Mapping[str, Tensor]) -> Memory:
        """An empty memory.

        Args:
            tensors: of the shapes and types of the updates, by name.

        Returns:
            Zeros as `velocity` (u) and `residual` (v).
        """
        zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return Memory({"velocity": zeros, "residual": dict(zeros)})

    def advance(
        self, tensors: Mapping[str, Tensor], memory: Memory, round_number: int
    ) -> tuple[dict[str, Tensor], Memory]:
        """One round.

        Args:
            tensors: the client's update, by name.
            memory: after the round before.
            round_number: from 0; only the warm-up depends on it.

        Returns:
            What is sent, and the memory after it; nothing given is changed.
        """
        velocity = {
            name: self.momentum * memory.parts["velocity"][name] + tensor
            for name, tensor in self._clipped(tensors).items()
        }
        residual = {name: memory.parts["residual"][name] + moved for name, moved in velocity.items()}
        sent = TopK(self.share(round_number), self.scope).apply(residual, "gradient", None)
        left = {name: value - sent[name] for name, value in residual.items()}
        if self.masking:
            velocity = {name: torch.where(sent[name] != 0, 0, value) for name, value in velocity.items()}
        return sent, Memory({"velocity": velocity, "residual": left})

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The first round, with an empty memory."""
        return TopK(self.share(0), self.scope).apply(self._clipped(tensors), kind, generator)

    def preimage(self, after: Preimage) -> Preimage | None:
        """Of the first round: that of `TopK`, and none with clipping, unless scales are unknown anyway."""
        if self.clip is not None and after.sizes is None:
            return None
        return TopK(self.share(0), self.scope).preimage(after)

    def _clipped(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.clip is None:
            return dict(tensors)
        return Clip(self.clip / math.sqrt(self.clients)).apply(tensors, "gradient", None)
