"""Which tokens may stand at which position: the span test of every token of the vocabulary at every position."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from gradleak.attacks.text.span import Equation, SpanTest

# Numbers that one pass may hold in a layer's input.
_CHUNK = 8_000_000


def token_excess(test: SpanTest, equations: Sequence[Equation], ends: float = float("inf")) -> Tensor | None:
    """The largest excess over equations of depth 0, of every token at every position.

    Where inputs depend on the position, one pass of a token repeated over all of them tests it at all; otherwise one
    position stands for all.

    Args:
        test: of the observation.
        equations: of depth 0, at least one.
        ends: reading of `time.perf_counter` at which to give up.

    Returns:
        `[vocabulary, T]`, infinite at the space's padding; None if time ran out.
    """
    space = test.inputs.space
    once = not test.structure.positional and not test.structure.fixed_length
    length = 1 if once else space.length
    size = max(1, _CHUNK // (length * max(one.width for one in equations)))
    found: list[Tensor] = []
    for tokens in torch.arange(space.vocabulary).split(size):
        if time.perf_counter() > ends:
            return None
        # Padding would be masked out, so another token stands in for it.
        if space.padding is not None:
            tokens = tokens.masked_fill(tokens == space.padding, 0 if space.padding else 1)
        found.append(test.excess(tokens[:, None].repeat(1, length), equations))
    excess = torch.cat(found)
    excess = excess if excess.shape[1] == space.length else excess[:, :1].expand(-1, space.length).clone()
    if space.padding is not None:
        excess[space.padding] = torch.inf
    return excess
