"""Growing the beginnings of texts token by token, each tested in the span of an input behind attention."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.text.lookup import looked_up
from gradleak.attacks.text.span import Equation, SpanTest

# Tokens in one pass.
_CHUNK = 8192

Prefix = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Prefixes:
    """All beginnings of texts that pass.

    Attributes:
        excess: of each at its last token, by prefix; every beginning of a prefix is one as well.
        complete: whether every possible one was tested: neither time nor the limit of their number ended it.
        tested: sequences that were tested.
    """

    excess: dict[Prefix, float]
    complete: bool
    tested: int

    def leaves(self) -> list[Prefix]:
        """Those that no other continues, in order."""
        inner = {prefix[:-1] for prefix in self.excess}
        return sorted(prefix for prefix in self.excess if prefix not in inner)

    def without_repetition(self) -> "Prefixes":
        """Without prefixes that are one token repeated, unless another one continues them with a different token.

        In models without positions attention to one repeated token gives the same however often it is repeated, so
        that such prefixes pass by themselves.

        Returns:
            The others.
        """
        told = {prefix[:end] for prefix in self.excess if len(set(prefix)) > 1 for end in range(1, len(prefix))}
        kept = {
            prefix: excess
            for prefix, excess in self.excess.items()
            if len(prefix) == 1 or len(set(prefix)) > 1 or prefix in told
        }
        return Prefixes(kept, self.complete, self.tested)


def grow(
    test: SpanTest,
    equations: Sequence[Equation],
    confirming: Sequence[Equation],
    lists: Sequence[Tensor],
    accepted: float,
    *,
    most: int,
    ends: float = float("inf"),
) -> Prefixes:
    """Extend prefixes by every token of the next position's list, and keep those whose last input is in the spans.

    In a causal model that input depends on the prefix alone, so the true beginnings pass whatever follows.

    Args:
        test: of the observation, whose model is causal.
        equations: of depth 1, at least one, that test every extension; early ones in the model cost least.
        confirming: of depth 1, that test those which passed.
        lists: the tokens that may stand at each position, `[k]` each.
        accepted: largest excess that passes.
        most: prefixes kept at each position, those of the smallest excess.
        ends: reading of `time.perf_counter` at which to stop.

    Returns:
        The prefixes.
    """
    alive, found = torch.zeros((1, 0), dtype=torch.long), dict[Prefix, float]()
    complete, tested = True, 0
    with looked_up(test.inputs, test.structure, torch.cat(list(lists)).unique()):
        for tokens in lists:
            extended = torch.cat(
                [alive.repeat_interleave(len(tokens), dim=0), tokens.repeat(len(alive))[:, None]], dim=1
            )
            if not len(extended):
                break
            tested += len(extended)
            values = _tested(test, equations, extended, accepted, ends)
            values = values if values is None else _tested(test, confirming, extended, accepted, ends, values)
            if values is None:
                return Prefixes(found, False, tested)
            order = values.argsort()
            order = order[values[order] <= accepted]
            complete &= len(order) <= most
            order = order[:most].sort().values
            alive = extended[order]
            rows: list[list[int]] = alive.tolist()
            found.update({tuple(row): float(values[place]) for row, place in zip(rows, order.tolist(), strict=True)})
    return Prefixes(found, complete, tested)


def _tested(
    test: SpanTest,
    equations: Sequence[Equation],
    sequences: Tensor,
    accepted: float,
    ends: float,
    before: Tensor | None = None,
) -> Tensor | None:
    """The excess at the last tokens of sequences `[N, n]`, `[N]`; what did not pass before is left as it is.

    Returns:
        None if time ran out.
    """
    values = torch.zeros(len(sequences)) if before is None else before.clone()
    passed = (values <= accepted).nonzero()[:, 0]
    if not equations:
        return values
    for places in passed.split(max(1, _CHUNK // sequences.shape[1])):
        if time.perf_counter() > ends:
            return None
        if len(places):
            values[places] = torch.maximum(values[places], last_excess(test, equations, sequences[places]).to(values))
    return values


def last_excess(test: SpanTest, equations: Sequence[Equation], sequences: Tensor) -> Tensor:
    """The largest excess over equations at the last tokens of sequences `[N, n]`, `[N]`."""
    length = sequences.shape[1]
    if test.structure.fixed_length and length < test.inputs.space.length:
        # What follows does not matter to a causal model.
        missing = test.inputs.space.length - length
        sequences = torch.cat([sequences, sequences[:, -1:].expand(-1, missing)], dim=1)
    entering = test.inputs(sequences, [one.modules[0] for one in equations])
    return torch.stack([one.excess(entering[one.modules[0]][:, length - 1]) for one in equations]).amax(dim=0)
