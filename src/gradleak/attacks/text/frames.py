"""What an attacker takes as known of texts before searching them: where they end, and the tokens at their ends."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.threat import Observation
from gradleak.tokens import NO_TOKEN, TokenSpace


@dataclass(frozen=True, eq=False)
class Frame:
    """Tokens that are known, or assumed.

    Attributes:
        known: ids `[N, T]`, `NO_TOKEN` where a token is to be found.
    """

    known: Tensor

    @property
    def alike(self) -> bool:
        """Whether the same is known of every text."""
        return bool((self.known == self.known[:1]).all())

    def first(self, count: int) -> Tensor:
        """Of the first texts `[count, T]`; of one text where the client passes them alone."""
        return self.known[:count]


def frame_of(
    observation: Observation, space: TokenSpace, begin: int | None = None, end: int | None = None
) -> tuple[Frame, str]:
    """What is known of the texts of an observation, whose batch size must be known.

    Lengths are those that the threat model gives; else every text is taken to be as long as the longest, which the
    gradient of a position embedding shows; else to fill all positions.

    Args:
        observation: what the attacker holds.
        space: its input space.
        begin: id of the first token of every text, if known.
        end: id of the last token of every text, if known.

    Returns:
        The frame, and one clause that says what was given or assumed.
    """
    count, longest = observation.batch_size, space.length
    assert count is not None
    if space.padding is None:
        lengths, clause = [longest] * count, f"all {longest} positions hold tokens"
    elif observation.lengths is not None:
        lengths, clause = [int(length) for length in observation.lengths], "lengths were given"
    else:
        shown = longest_length(observation, space)
        longest = longest if shown is None else shown
        seen = "as the position embedding's gradient shows of the longest" if shown is not None else "all positions"
        lengths, clause = [longest] * count, f"every text was taken to have {longest} tokens, {seen}"
    known = torch.full((count, space.length), NO_TOKEN)
    for row, length in zip(known, lengths, strict=True):
        if begin is not None:
            row[0] = begin
        if end is not None and length > 1:
            row[length - 1] = end
        if space.padding is not None:
            row[length:] = space.padding
    ends = [f"{word} token" for word, token in (("first", begin), ("last", end)) if token is not None]
    return Frame(known), clause + (f"; the {' and the '.join(ends)} of each are given" if ends else "")


def longest_length(observation: Observation, space: TokenSpace) -> int | None:
    """Tokens of the longest text, by the rows of a learned position embedding that have a gradient.

    Rows of positions that only padding takes have none, exactly.

    Args:
        observation: what the attacker holds.
        space: its input space.

    Returns:
        The length, or None where there is no such embedding or noise hides its zeros.
    """
    model = observation.task.model
    words = space.embedding_of(model)[1]
    for name, module in model.named_modules():
        tensor = observation.update.tensors.get(f"{name}.weight".lstrip("."))
        if tensor is None or not isinstance(module, nn.Embedding) or module is words:
            continue
        touched = (tensor != 0).any(dim=1).nonzero().flatten()
        if len(tensor) < space.length or not 1 <= len(touched) <= space.length:
            continue
        # An unbroken run of rows, which some models begin after the first ones.
        if int(touched[-1] - touched[0]) == len(touched) - 1:
            return len(touched)
    return None
