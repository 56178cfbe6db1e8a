"""Exact texts by the span test: of causal models tokens, beginnings, then whole texts; else by `recover_encoder`."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.attacks.one_gradient import as_gradient
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.text.encoder_search import recover_encoder
from gradleak.attacks.text.gradient_noise import added_noise
from gradleak.attacks.text.prefixes import Prefixes, grow
from gradleak.attacks.text.readout import Text, read_texts
from gradleak.attacks.text.span import ACCEPTED, Equation, SpanTest, span_test
from gradleak.attacks.text.token_lists import token_excess
from gradleak.reconstructions import Reconstruction, Status
from gradleak.threat import Observation
from gradleak.tokens import NO_TOKEN, TokenSpace, next_tokens

# An equation with this many dimensions outside of its span tells every false token alone.
_ALONE = 8
# Prefixes of one length that are kept.
_MOST_PREFIXES = 3000


@dataclass(frozen=True)
class Dager:
    """The attack of `dager`.

    Args:
        restarts: of encoders, random texts from which a search goes out, for each text of the batch.
        max_seconds: wall time; None for no limit.
        name: in tables.
    """

    restarts: int = 6
    max_seconds: float | None = None
    name: str = "dager"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. Only the search of an encoder's texts draws anything."""
        del progress
        began = time.perf_counter()
        ends = math.inf if self.max_seconds is None else began + self.max_seconds
        space, task = observation.task.space, observation.task
        if not isinstance(space, TokenSpace):
            return not_applicable(self.name, observation, f"inputs are no tokens but of a {type(space).__name__}")
        if observation.update.is_empty:
            return not_applicable(self.name, observation, "every entry of the update is zero")
        test = span_test(observation)
        if not test.structure.causal:
            return self._of_encoder(observation, test, seed, began, ends)
        for depth in (0, 1):
            if not test.of_depth(depth):
                return not_applicable(self.name, observation, test.why_not(depth))
        trace = [_described(test, depth) for depth in (0, 1)]

        excess = token_excess(test, test.of_depth(0), ends)
        if excess is None:
            return not_applicable(self.name, observation, "the time ended before every token was tested")
        lists = [(excess[:, place] <= ACCEPTED).nonzero()[:, 0] for place in range(space.length)]
        trace.append(f"tokens that may stand at each position: {', '.join(str(len(tokens)) for tokens in lists)}")
        if not len(lists[0]):
            return not_applicable(self.name, observation, "no token of the vocabulary is in the span at position 1")
        screening, confirming = _chosen(test)
        prefixes = grow(test, screening, confirming, lists, ACCEPTED, most=_MOST_PREFIXES, ends=ends)
        prefixes = prefixes if test.structure.positional else prefixes.without_repetition()
        leaves = prefixes.leaves()
        trace.append(
            f"{prefixes.tested} prefixes tested, {len(prefixes.excess)} in the span, {len(leaves)} longest ones"
        )
        if not leaves:
            return not_applicable(self.name, observation, "no beginning of a text is in the span behind attention")
        causal_targets = task.classified == "token"
        read = read_texts(
            test, observation.update.in_gradient_direction(), leaves, task.num_classes, next_token=causal_targets
        )
        if isinstance(read, str):
            trace.append(f"ends unknown: {read}")
            # A language model's last token is unknown then.
            texts = [Text((*leaf, NO_TOKEN) if causal_targets else leaf, None, 1.0) for leaf in leaves]
        else:
            texts = list(read.texts)
            trace.append(f"{len(texts)} texts read from the gradient of {read.module}")
        return _answered(self.name, observation, texts, prefixes, began, trace)

    def _of_encoder(
        self, observation: Observation, test: SpanTest, seed: int, began: float, ends: float
    ) -> Reconstruction:
        """Where what is at a position depends on later tokens."""
        gradient = as_gradient(observation)
        if isinstance(gradient, str):
            return not_applicable(self.name, observation, f"the model is no decoder, and {gradient}")
        # Local steps that come to one gradient are another update.
        test = test if gradient is observation else span_test(gradient)
        found = recover_encoder(gradient, test, name=self.name, seed=seed, restarts=self.restarts, deadline=ends)
        return replace(found, seconds=time.perf_counter() - began)


def dager(*, restarts: int = 6, max_evaluations: int | None = None, max_seconds: float | None = None) -> Dager:
    """Exact recovery of batches of text from a model's gradients (Petrov et al., NeurIPS 2024), decoders and encoders.

    Needs fewer tokens in the batch than the model is wide (with adapters, than their rank), and gradients of linear
    modules in the first layer and behind its attention. Batch size, lengths and labels are not needed. Beyond the
    paper: the threshold follows from the gradient's own errors, every linear module serves, and the last token of each
    text, which enters no layer of a language model's gradient, is read from the gradient of the last module. Of an
    encoder, whose attention mixes all tokens, sentences are not enumerated: all positions and the length of a text are
    solved for at once, by least squares over the effects of single replacements, rounded to tokens, a few times; words
    that a masked language model had to guess follow from the last layer's gradient.

    Args:
        restarts: of encoders, random texts from which a search goes out, for each text of the batch.
        max_evaluations: likewise; one evaluation is used, to compare the result with the update.
        max_seconds: ends the search for longer prefixes; None for no limit.

    Returns:
        The attack.
    """
    del max_evaluations
    return Dager(restarts, max_seconds)


def _described(test: SpanTest, depth: int) -> str:
    best = test.best(depth)
    assert best is not None
    where = "token and position" if depth == 0 else "a whole prefix"
    return f"inputs that depend on {where}: rank {best.rank} of {best.width} in the gradient of {best.modules[0]}"


def _chosen(test: SpanTest) -> tuple[list[Equation], list[Equation]]:
    """Which equations test every extension, and which confirm those that passed."""
    equations = test.of_depth(1)
    most = max(one.rank for one in equations)
    # Late modules of a classifier receive gradients at the last tokens only, and hold fewer inputs.
    complete = [one for one in equations if one.rank == most]
    strong = [one for one in complete if one.width - one.rank >= _ALONE]
    if not strong:
        return complete, []
    if bool(strong[0].values.isinf().any()):
        return strong[:1], strong[1:3]
    best = max(strong, key=lambda one: float(one.values[-1]))
    return strong[:1], [] if best is strong[0] else [best]


def _answered(
    name: str, observation: Observation, texts: Sequence[Text], prefixes: Prefixes, began: float, trace: list[str]
) -> Reconstruction:
    """Choose as many texts as there are, and compare their update with the observed one."""
    task = observation.task
    assert isinstance(task.space, TokenSpace)
    rows = _counted(texts, observation.batch_size, prefixes)
    inputs, complete = _padded(rows, task.space, observation.batch_size or len(rows))
    variable, probabilities, targets = _candidate(observation, inputs, rows)
    objective = math.inf
    if complete:
        objective = mismatch(observation, variable, probabilities)
    status: Status = "converged" if objective <= max(REPRODUCED, _noise_share(observation)) else "budget"
    found = f"{len(rows)} texts with {int((inputs >= 0).sum())} positions"
    ended = "" if prefixes.complete else ", but not every prefix was tested"
    met = (
        f"the update is met to a relative squared error of {objective:.1e}" if complete else "not every token is known"
    )
    return Reconstruction(
        inputs=inputs,
        targets=targets,
        targets_given=observation.targets is not None,
        objective=objective,
        evaluations=int(complete),
        seconds=time.perf_counter() - began,
        status=status,
        attack=name,
        variable=variable,
        target_probabilities=probabilities,
        message=f"{found}{ended}; {met}",
        trace=tuple(trace),
    )


def _noise_share(observation: Observation) -> float:
    """The relative squared error that known noise leaves at the true texts, with a margin."""
    entries = sum(tensor.numel() for tensor in observation.update.tensors.values())
    return 1.1 * entries * added_noise(observation) ** 2 / observation.update.squared_norm()


def _counted(texts: Sequence[Text], count: int | None, prefixes: Prefixes) -> list[Text]:
    """Each text as often as its weight says; the known number of them, where there are more the most certain ones."""
    smallest = min(text.weight for text in texts)
    typical = sorted(text.weight for text in texts)[len(texts) // 2]
    unit = smallest if smallest > 0.5 * typical else typical
    rows = [text for text in texts for _ in range(max(1, round(text.weight / unit)))]
    if count is None or len(rows) == count:
        return rows
    if count % len(rows) == 0:
        # A mean does not tell how often everything occurs.
        return rows * (count // len(rows))

    def doubt(text: Text) -> float:
        return max((prefixes.excess.get(text.tokens[:end], 0.0) for end in range(1, len(text.tokens) + 1)), default=0.0)

    return sorted(rows, key=lambda text: (-len(text.tokens), doubt(text)))[:count]


def _padded(rows: Sequence[Text], space: TokenSpace, count: int) -> tuple[Tensor, bool]:
    """Ids `[N, T]`, and whether every one is known."""
    fill = NO_TOKEN if space.padding is None else space.padding
    inputs = torch.full((max(count, len(rows)), space.length), NO_TOKEN)
    for place, row in enumerate(rows):
        length = min(len(row.tokens), space.length)
        inputs[place, :length] = torch.tensor(row.tokens[:length])
        inputs[place, length:] = fill
    return inputs, bool((inputs >= 0).all())


def _candidate(observation: Observation, inputs: Tensor, rows: Sequence[Text]) -> tuple[Tensor, Tensor, Tensor]:
    """The variable, the target probabilities, and the targets of ids `[N, T]`."""
    task = observation.task
    assert isinstance(task.space, TokenSpace)
    known = inputs >= 0
    variable = task.encode(inputs.clamp_min(0))
    variable[~known] = 1 / task.space.vocabulary
    if task.classified == "token":
        targets = next_tokens(inputs.clamp_min(0), task.space.padding)
        following = torch.cat([known[:, 1:], known[:, :1]], dim=1)
        return (
            variable,
            task.target_probabilities(targets.masked_fill(~following, -100)),
            targets.masked_fill(~following, -1),
        )
    if observation.targets is not None and len(observation.targets) == len(inputs):
        probabilities = task.target_probabilities(observation.targets)
        return variable, probabilities, probabilities.argmax(dim=-1)
    targets = torch.full((len(inputs),), 0)
    for place, row in enumerate(rows):
        targets[place] = -1 if row.target is None else row.target
    return variable, task.target_probabilities(targets.clamp_min(0)), targets
