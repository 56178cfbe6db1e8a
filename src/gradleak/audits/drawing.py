"""Which private examples and which seeds the captured batches of an audit get.

Batch b of a data set and a batch size holds the same examples whatever the model, the client, the defense, the threat
model or the attack, so that their results can be compared batch by batch. More trials continue the draw: the first
batches stay as they are.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradleak.seeds import stage_generator

REFERENCE = 256
"""Public examples for the baselines."""


def drawn_seed(seed: int, stage: str) -> int:
    """A seed for one thing of an audit, 0 to 2^31 - 1."""
    return int(torch.randint(2**31, (), generator=stage_generator(seed, stage)))


@dataclass
class Draw:
    """The draw of the examples of one data set at one batch size.

    All examples are gone through in random order before any of them comes again.

    Attributes:
        name: of the data set.
        targets: of all its examples `[n]`.
        size: examples of a batch, at most n.
        distinct: whether the labels of a batch all differ; at most as many as there are classes then.
        seed: of the audit.
    """

    name: str
    targets: Tensor
    size: int
    distinct: bool
    seed: int
    _orders: dict[int, Tensor] = field(default_factory=dict[int, Tensor], repr=False)

    def examples(self, batch: int) -> list[int]:
        """Positions of the examples of a batch, in the order of the draw."""
        count = len(self.targets)
        rounds, within = divmod(batch, count // self.size)
        order = self._order(rounds)
        first = within * self.size
        if not self.distinct:
            return order[first : first + self.size].tolist()
        found: dict[int, int] = {}
        for position in torch.cat([order[first:], order[:first]]).tolist():
            found.setdefault(int(self.targets[position]), position)
            if len(found) == self.size:
                break
        return list(found.values())

    def _order(self, rounds: int) -> Tensor:
        if rounds not in self._orders:
            stage = f"examples/{self.name}/{self.size}/{rounds}"
            self._orders[rounds] = torch.randperm(len(self.targets), generator=stage_generator(self.seed, stage))
        return self._orders[rounds]


def reference_positions(name: str, count: int) -> Tensor:
    """Positions of the public examples of a data set, the same in every audit; a trial leaves out its own."""
    order = torch.randperm(count, generator=stage_generator(0, f"reference/{name}"))
    return order[:REFERENCE].sort().values
