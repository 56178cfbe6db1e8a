"""Whole texts that satisfy equations in which all of their tokens mix, as in encoders.

What enters a module above attention depends on every token of its text, so no token can be tested alone. But it is
nearly linear in which token stands where: with J the changes that single replacements make, `r + J w = 0` is solved in
the least-squares sense for how much of each replacement is wanted, and every position takes the token of most weight.
From random texts a few such steps reach a true one, order and length included, where thousands of texts would have to
be enumerated for one sentence of a batch.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.text.span import ACCEPTED, Equation, SpanTest

_CHUNK = 256
# Directions outside of a span that are looked at; replacements have to be fewer than these times the positions.
_DIRECTIONS = 80
# Shares of the mean diagonal that are added to the normal equations, all of which are tried in each step.
_RIDGES = (1e-3, 1e-5, 1e-6)
_STEPS = 12
_STARTS = 32
# Random texts begin with lengths from the longest down by this share of it.
_SHORTER = 0.75
_GOLDEN = (5**0.5 - 1) / 2
# From a text that no step makes better, the search goes on with so many others that may have the right length.
_DETOURS = 3
# The first starts follow so few equations, since each further one runs the model deeper; later ones follow all.
_FOLLOWED = 2
_QUICK = 4
# So many equations have to hold for a text to be accepted.
_AGREEING = 2
# A text that agrees with another at more than this share of positions is on its way to it.
_ALIKE = 0.7
# More replacements than this are thinned out at random, anew in each step.
_REPLACEMENTS = 2500
# A step has to lower the sum of squares to this share of the last one.
_PROGRESS = 0.999


@dataclass(frozen=True, eq=False)
class WholeTexts:
    """Texts that satisfy the equations.

    Attributes:
        tokens: ids `[M, T]`, padded.
        evaluations: texts that were run through the model.
        starts: random texts from which a search went out.
    """

    tokens: Tensor
    evaluations: int
    starts: int


class WholeSearch:
    """Searches texts of which every position has some allowed tokens.

    Args:
        test: the equations.
        equations: those to satisfy, of inputs that depend on several tokens.
        allowed: ids for every position from the first on, each `[K]`; positions after these are padding.
        padding: id that may take the place of the last tokens, or None if a text has a token at every position.
        length: positions T of an input of the model.
        generator: draws the starts.
    """

    def __init__(
        self,
        test: SpanTest,
        equations: Sequence[Equation],
        allowed: Sequence[Tensor],
        *,
        padding: int | None,
        length: int,
        generator: torch.Generator,
    ) -> None:
        self.test, self.equations, self.allowed = test, tuple(equations), tuple(allowed)
        self.padding, self.length, self.generator = padding, length, generator
        self.followed = self.equations[:_FOLLOWED]
        self.evaluations = 0

    def texts(
        self, count: int | None, most_starts: int, deadline: float, done: Callable[[Tensor], bool] = lambda _: False
    ) -> WholeTexts:
        """Search different texts.

        Args:
            count: how many there are, or None if that is not known.
            most_starts: how many starts at most.
            deadline: `time.perf_counter()` after which none begins.
            done: whether texts found so far, `[M, T]`, are all; asked after each one.

        Returns:
            What was found, in no order.
        """
        found: list[Tensor] = []
        starts = 0
        while starts < most_starts and (count is None or len(found) < count) and time.perf_counter() < deadline:
            starts += 1
            if starts > (_QUICK if count is None else count):
                self.followed = self.equations
            fewer = self._without(found)
            text, solved, others = self._descended(self._start(fewer, starts), fewer, (), deadline)
            for stuck in () if solved else (text, *others):
                # A token that a found text has at the same position is allowed again.
                text, solved, _ = self._descended(stuck, self.allowed, found, deadline)
                solved &= not _among(text, found)
                if solved:
                    break
            if solved and not _among(text, found):
                found.append(text)
                if done(torch.stack(found)):
                    break
        rows = torch.stack(found) if found else torch.empty((0, self.length), dtype=torch.long)
        return WholeTexts(rows, self.evaluations, starts)

    def _without(self, found: Sequence[Tensor]) -> list[Tensor]:
        """The allowed tokens less those of found texts, where that leaves any."""
        fewer: list[Tensor] = []
        for place, tokens in enumerate(self.allowed):
            used = torch.tensor([int(text[place]) for text in found], dtype=torch.long)
            rest = tokens[~torch.isin(tokens, used)]
            fewer.append(rest if len(rest) else tokens)
        return fewer

    def _start(self, allowed: Sequence[Tensor], number: int) -> Tensor:
        """The best of some random texts of one length, which is spread over the possible ones from start to start."""
        filler = 0 if self.padding is None else self.padding
        texts = torch.full((_STARTS, self.length), filler)
        for place, tokens in enumerate(allowed):
            texts[:, place] = tokens[torch.randint(len(tokens), (_STARTS,), generator=self.generator)]
        if self.padding is not None:
            # The fractional parts of multiples of the golden ratio fill an interval evenly.
            texts[:, len(allowed) - math.floor(_SHORTER * len(allowed) * (_GOLDEN * (number - 1) % 1)) :] = self.padding
        powers = [part.flatten(1).square().sum(dim=1) for part in self._outside(texts)]
        return texts[int(self._total(powers, texts, [1.0] * len(powers)).argmin())]

    def _descended(
        self, text: Tensor, allowed: Sequence[Tensor], avoided: Sequence[Tensor], deadline: float
    ) -> tuple[Tensor, bool, list[Tensor]]:
        """Steps from one text until it satisfies the equations, or no step makes it better, or leads to a known one.

        Returns:
            The text, whether it satisfies them, and if not what it might be with other lengths.
        """
        others: list[Tensor] = []
        for _ in range(_STEPS):
            if self._solves(text):
                return text, True, []
            if time.perf_counter() > deadline or any(self._alike(text, other) for other in avoided):
                break
            better, others = self._step(text, allowed)
            if better is None:
                return text, False, others
            text = better
        return text, self._solves(text), others

    def _alike(self, text: Tensor, other: Tensor) -> bool:
        """Whether most tokens of a text are at the same position of another."""
        kept = self._kept(text[None])[0]
        return float((text == other)[kept].float().mean()) > _ALIKE

    def _solves(self, text: Tensor) -> bool:
        """Whether the inputs at most positions lie in enough spans, as exactly as the gradients are known."""
        # Not in all: the last layers of a classifier train on some positions of some texts only.
        kept = self._kept(text[None])[0]
        entering = self.test.inputs(text[None], [one.modules[0] for one in self.equations])
        self.evaluations += 1
        excesses = [float(one.excess(entering[one.modules[0]][0, kept]).median()) for one in self.equations]
        return sum(excess <= ACCEPTED for excess in excesses) >= min(_AGREEING, len(self.equations))

    def _step(self, text: Tensor, allowed: Sequence[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
        """The best text that least squares lead to, or None if it is no better; and good ones of other lengths."""
        places, tokens = self._replacements(text, allowed)
        if not len(places):
            return None, []
        changed = text.repeat(len(places) + 1, 1)
        changed[torch.arange(1, len(changed)), places] = tokens
        parts = self._outside(changed)
        # Each equation in units of its own misfit, so that none is lost beside another.
        units = [max(float(part[0].norm()), 1e-30) for part in parts]
        misfit = torch.cat([part[0].flatten() / unit for part, unit in zip(parts, units, strict=True)])
        jacobian = torch.cat(
            [(part[1:] - part[:1]).flatten(1) / unit for part, unit in zip(parts, units, strict=True)], dim=1
        )
        normal, right = (jacobian @ jacobian.T).double(), -(jacobian @ misfit).double()
        proposed: list[Tensor] = []
        for ridge in _RIDGES:
            damped = normal + ridge * normal.diagonal().mean() * torch.eye(len(normal), dtype=torch.float64)
            wanted = torch.linalg.solve(damped, right)
            proposed.extend(self._rounded(text, places, tokens, wanted))
        texts = torch.unique(torch.stack(proposed), dim=0)
        powers = [part.flatten(1).square().sum(dim=1) for part in self._outside(texts)]
        totals = self._total(powers, texts, units)
        own = self._total([part[:1].flatten(1).square().sum(dim=1) for part in parts], text[None], units)
        goal = _PROGRESS * float(own[0])
        best = (
            texts[totals.argmin()] if float(totals.min()) < goal else self._neighbor(text, parts, changed, units, goal)
        )
        return best, self._other_lengths(texts, totals, text)

    def _neighbor(
        self, text: Tensor, parts: Sequence[Tensor], changed: Tensor, units: Sequence[float], goal: float
    ) -> Tensor | None:
        """The best text with one replacement or two tokens swapped, if it is below a goal: where nothing is linear."""
        first, second = torch.combinations(torch.arange(int(self._kept(text[None]).sum())), 2).unbind(dim=1)
        swapped = text.repeat(len(first), 1)
        rows = torch.arange(len(first))
        swapped[rows, first], swapped[rows, second] = text[second], text[first]
        totals: list[Tensor] = []
        for texts, outside in ((changed, parts), (swapped, self._outside(swapped) if len(swapped) else ())):
            if len(texts):
                totals.append(self._total([part.flatten(1).square().sum(dim=1) for part in outside], texts, units))
        lowest = torch.cat(totals)
        best = int(lowest.argmin())
        return torch.cat([changed, swapped])[best] if float(lowest[best]) < goal else None

    def _other_lengths(self, texts: Tensor, totals: Tensor, text: Tensor) -> list[Tensor]:
        """Those of texts `[S, T]` that are better than all that are one token shorter or longer, by how much."""
        lengths = self._kept(texts).sum(dim=1)
        lowest = torch.full((self.length + 2,), torch.inf, dtype=totals.dtype)
        lowest.scatter_reduce_(0, lengths, totals, "amin")
        depth = torch.minimum(lowest[lengths - 1], lowest[lengths + 1]) / totals
        depth[(totals > lowest[lengths]) | (lengths == self._kept(text[None]).sum())] = 0
        order = depth.argsort(descending=True)[: int((depth > 1).sum())]
        return list(texts[order[:_DETOURS]])

    def _replacements(self, text: Tensor, allowed: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Positions and tokens of all single replacements, `[K]` each; padding is one where texts have an end."""
        places: list[Tensor] = []
        tokens: list[Tensor] = []
        for place, one in enumerate(allowed):
            if self.padding is not None and place > 0:
                one = torch.cat([one, torch.tensor([self.padding])])
            one = one[one != text[place]]
            places.append(torch.full_like(one, place))
            tokens.append(one)
        flat_places, flat_tokens = torch.cat(places), torch.cat(tokens)
        if len(flat_places) > _REPLACEMENTS:
            kept = torch.randperm(len(flat_places), generator=self.generator)[:_REPLACEMENTS].sort().values
            flat_places, flat_tokens = flat_places[kept], flat_tokens[kept]
        return flat_places, flat_tokens

    def _rounded(self, text: Tensor, places: Tensor, tokens: Tensor, wanted: Tensor) -> list[Tensor]:
        """The token of most weight at every position, for every length that a text may have."""
        chosen = text.clone()
        for place in range(len(self.allowed)):
            here = (places == place) & (tokens != (-1 if self.padding is None else self.padding))
            options, weights = tokens[here], wanted[here]
            present = int(text[place])
            if present != self.padding:
                options = torch.cat([options, text[place : place + 1]])
                weights = torch.cat([weights, 1 - wanted[places == place].sum()[None]])
            if len(options):
                chosen[place] = options[weights.argmax()]
        if self.padding is None:
            return [chosen]
        known = int((chosen[: len(self.allowed)] != self.padding).long().cumprod(dim=0).sum())
        ends = torch.arange(1, known + 1)
        return list(torch.where(torch.arange(self.length) < ends[:, None], chosen, self.padding))

    def _outside(self, texts: Tensor) -> list[Tensor]:
        """For every equation what the unit inputs have outside of its span, zero at padding, `[S, T, directions]`."""
        names = [one.modules[0] for one in self.followed]
        parts: list[list[Tensor]] = [[] for _ in names]
        for chunk in texts.split(_CHUNK):
            entering = self.test.inputs(chunk, names)
            kept = self._kept(chunk)[..., None]
            for part, one in zip(parts, self.followed, strict=True):
                unit = torch.nn.functional.normalize(entering[one.modules[0]].to(one.directions), dim=-1)
                part.append((unit @ one.directions[one.rank : one.rank + _DIRECTIONS].T) * kept)
        self.evaluations += len(texts)
        return [torch.cat(part) for part in parts]

    def _kept(self, texts: Tensor) -> Tensor:
        """Which positions hold a token of a text, bool `[S, T]`."""
        return torch.ones_like(texts, dtype=torch.bool) if self.padding is None else texts != self.padding

    def _total(self, powers: Sequence[Tensor], texts: Tensor, units: Sequence[float]) -> Tensor:
        """Sum over equations of the mean power at a position, each in its unit, `[S]`."""
        counts = self._kept(texts).sum(dim=1).clamp(min=1)
        return torch.stack([power / unit**2 for power, unit in zip(powers, units, strict=True)]).sum(dim=0) / counts


def _among(text: Tensor, others: Sequence[Tensor]) -> bool:
    return any(torch.equal(text, other) for other in others)
