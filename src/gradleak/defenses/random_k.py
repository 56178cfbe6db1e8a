"""Random sparsification: some entries of the update are drawn and sent, the others are not."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage, may_be_zero
from gradleak.defenses.scope import Scope, scope_problems
from gradleak.defenses.top_k import kept_count
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class RandomK:
    """Keep entries drawn at random, and send zero for the others (Wangni et al. 2018, with equal probabilities).

    Args:
        keep: share of the entries that are sent, in (0, 1]; rounded up, so that at least one is.
        unbiased: divide what is sent by the share that is sent, so that its mean over draws is the update.
        scope: `"global"`: drawn from the whole update; `"layer"`: from each tensor.
    """

    keep: float
    unbiased: bool = True
    scope: Scope = "global"

    def problems(self) -> list[str]:
        """A share outside (0, 1], or an unknown scope."""
        found: list[str] = []
        if not 0 < self.keep <= 1:
            found.append(f"RandomK.keep: expected a share above 0 and at most 1, got {self.keep}; 0.1 sends 10 %")
        found += scope_problems("RandomK", self.scope)
        return found

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """What was drawn; without a generator the mean over all draws."""
        del kind
        shares = self._shares(tensors)
        if generator is None:
            return {name: tensor if self.unbiased else tensor * shares[name] for name, tensor in tensors.items()}
        counts = [tensor.numel() for tensor in tensors.values()]
        if self.scope == "layer":
            drawn = [self._drawn(count, generator) for count in counts]
        else:
            drawn = list(self._drawn(sum(counts), generator).split(counts))
        return {
            name: tensor * kept.view(tensor.shape).to(tensor.device) / (shares[name] if self.unbiased else 1)
            for (name, tensor), kept in zip(tensors.items(), drawn, strict=True)
        }

    def preimage(self, after: Preimage) -> Preimage:
        """A zero says nothing; what was sent is scaled back."""
        if after.sizes is not None:
            return after.without_zeros()
        shares = self._shares(after.lower)

        def change(name: str, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            silent, factor = may_be_zero(lower, upper), shares[name] if self.unbiased else 1
            return torch.where(silent, -torch.inf, lower * factor), torch.where(silent, torch.inf, upper * factor)

        return after.widened(change)

    def _drawn(self, entries: int, generator: torch.Generator) -> Tensor:
        """Which entries are sent."""
        kept = torch.zeros(entries, dtype=torch.bool, device=generator.device)
        order = torch.randperm(entries, generator=generator, device=generator.device)
        kept[order[: kept_count(self.keep, entries)]] = True
        return kept

    def _shares(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """The share that is sent of each tensor's entries, which is what rounding up makes of `keep`."""
        counts = {name: tensor.numel() for name, tensor in tensors.items()}
        if self.scope == "global":
            counts = dict.fromkeys(counts, sum(counts.values()))
        return {name: kept_count(self.keep, count) / max(1, count) for name, count in counts.items()}
