"""Exact texts from the gradient of an encoder, whose attention mixes all tokens of a text.

The first half is DAGER's (Petrov et al., NeurIPS 2024): the span test of the first layer tells which tokens may stand
at each position. For a batch that is less than it seems: a token that occurs at two positions, as "the" or a mask does,
links them, since with `e + p` in the span for three corners of a rectangle of tokens and positions it is for the
fourth. So dozens of tokens are allowed where a batch of four has four, and enumeration is hopeless. The search of
`whole_search` replaces it.
"""

import math
import time
from dataclasses import replace
from itertools import combinations_with_replacement, islice

import torch
from torch import Tensor

from gradleak.attacks.labels import targets_of
from gradleak.attacks.mismatch import REPRODUCED, mismatch
from gradleak.attacks.protocol import not_applicable
from gradleak.attacks.text.hidden_words import hidden_words
from gradleak.attacks.text.span import ACCEPTED, Equation, SpanTest
from gradleak.attacks.text.token_lists import token_excess
from gradleak.attacks.text.whole_search import WholeSearch, WholeTexts
from gradleak.reconstructions import Reconstruction
from gradleak.seeds import stage_generator
from gradleak.threat import Observation
from gradleak.tokens import IGNORED, NO_TOKEN

# A token that is wrongly left out loses its text, one too many only costs time.
_ALLOWED = 1.5 * ACCEPTED
# An equation whose span is smaller than this share of that of the first layer lacks the inputs of some positions.
_COMPLETE = 0.8
_EQUATIONS = 3
# Directions of the first layer's span that may be rounding instead of tokens.
_UNEXPLAINED = 0.05
_MOST_UNKNOWN = 16
_MOST_REPEATS = 64


def recover_encoder(
    observation: Observation, test: SpanTest, *, name: str, seed: int, restarts: int, deadline: float
) -> Reconstruction:
    """Search the texts of a batch by the spans of the first layers, and the targets from the last.

    Args:
        observation: of one gradient of a task with a `TokenSpace`.
        test: its equations.
        name: of the attack, for the result.
        seed: of the random starts.
        restarts: starts for each text of the batch.
        deadline: `time.perf_counter()` after which no search begins.

    Returns:
        Whole texts in no order, with rows of `NO_TOKEN` for those that were not found; `converged` if all together
        reproduce the update.
    """
    began = time.perf_counter()
    first = test.best(0)
    if first is None:
        return not_applicable(name, observation, test.why_not(0))
    allowed, padding = allowed_tokens(test, first)
    space = test.inputs.space
    if not allowed or (padding is None and len(allowed) < space.length):
        return not_applicable(name, observation, f"no token fits position {len(allowed)} of {first.modules[0]}")
    equations = [one for one in test.of_depth(1) if one.rank >= _COMPLETE * first.rank][:_EQUATIONS]
    if not equations:
        why = "no later span holds all inputs" if test.of_depth(1) else test.why_not(1)
        return not_applicable(name, observation, f"tokens are known, not the texts they form: {why}")
    if not test.structure.positional and not _knows_positions(test, equations):
        return not_applicable(name, observation, "the model knows no positions, so that every order fits alike")
    found = _searched(observation, test, equations, allowed, padding, seed, restarts, deadline)
    result = _answer(name, observation, found, _explains(test, first, found.tokens))
    most = max(map(len, allowed))
    message = (
        f"{len(found.tokens)} texts from {found.starts} starts, with up to {most} tokens allowed at a position by "
        f"{first.modules[0]}, and texts judged by {', '.join(one.modules[0] for one in equations)}; {result.message}"
    )
    return replace(result, message=message, seconds=time.perf_counter() - began)


def allowed_tokens(test: SpanTest, equation: Equation) -> tuple[list[Tensor], int | None]:
    """Which tokens the first layer's span allows at each position.

    Args:
        test: the equations.
        equation: one of depth 0.

    Returns:
        Ids `[K]` for every position up to the first that allows none, and the padding's id if padding is masked out, so
        that texts may end before the last position.
    """
    space = test.inputs.space
    excess = token_excess(test, [equation])
    assert excess is not None  # no time limit
    fits = excess <= _ALLOWED
    if space.padding is not None:
        # A model without a mask takes padding for a token like others.
        fits[space.padding] = (test.excess(torch.full((1, space.length), space.padding), [equation]) <= _ALLOWED)[0]
    masked = space.padding is not None and not bool(fits[space.padding].any())
    allowed: list[Tensor] = []
    for place in range(space.length):
        tokens = fits[:, place].nonzero()[:, 0]
        if not len(tokens):
            break
        allowed.append(tokens)
    return allowed, space.padding if masked else None


def _knows_positions(test: SpanTest, equations: list[Equation]) -> bool:
    """Whether another order of the tokens changes more than the order of what enters the modules."""
    space = test.inputs.space
    words = torch.tensor([token for token in range(space.vocabulary) if token != space.padding])
    text = words[(torch.arange(space.length) * 7 + 1) % len(words)][None]
    names = [one.modules[0] for one in equations]
    plain, turned = test.inputs(text, names), test.inputs(text.flip(1), names)
    return any(float((plain[name] - turned[name].flip(1)).abs().max()) > 1e-4 for name in names)


def _searched(
    observation: Observation,
    test: SpanTest,
    equations: list[Equation],
    allowed: list[Tensor],
    padding: int | None,
    seed: int,
    restarts: int,
    deadline: float,
) -> WholeTexts:
    """As many texts as there are, or of an unknown number as many as it takes to explain the first layer's span."""
    search = WholeSearch(
        test,
        equations,
        allowed,
        padding=padding,
        length=test.inputs.space.length,
        generator=stage_generator(seed, "attack/encoder"),
    )
    first = test.best(0)
    assert first is not None
    count = observation.batch_size
    most = restarts * (_MOST_UNKNOWN if count is None else count)

    def done(texts: Tensor) -> bool:
        return count is None and (_explains(test, first, texts) or _reproduces(observation, texts))

    return search.texts(count, most, deadline, done)


def _reproduces(observation: Observation, texts: Tensor) -> bool:
    """Whether texts `[M, T]` with their targets are the whole batch."""
    variable = observation.task.encode(texts)
    targets, trouble = _targets(observation, texts, variable)
    return not trouble and mismatch(observation, variable, observation.task.target_probabilities(targets)) <= REPRODUCED


def _explains(test: SpanTest, first: Equation, texts: Tensor) -> bool:
    """Whether texts `[M, T]` span what the first layer received, up to rounding."""
    if not len(texts):
        return False
    padding = test.inputs.space.padding
    kept = torch.ones_like(texts, dtype=torch.bool) if padding is None else texts != padding
    entering = test.inputs(texts, [first.modules[0]])[first.modules[0]][kept].double()
    _, values, right = torch.linalg.svd(torch.nn.functional.normalize(entering, dim=1), full_matrices=False)
    spanned = right[values > 1e-5 * values[0]]
    basis = first.basis.double()
    outside = (basis - basis @ spanned.T @ spanned).norm(dim=1)
    return int((outside > 0.5).sum()) <= max(1, _UNEXPLAINED * len(basis))


def _answer(name: str, observation: Observation, found: WholeTexts, complete: bool) -> Reconstruction:
    """The texts with their targets, measured against the update, where some may have to be counted twice."""
    texts, count = found.tokens, observation.batch_size or max(1, len(found.tokens))
    if complete and 0 < len(texts) < count:
        # All inputs are explained, so that the missing texts may be equal to found ones.
        repeats = combinations_with_replacement(range(len(texts)), count - len(texts))
        for repeated in islice(repeats, _MOST_REPEATS):
            result = _measured(name, observation, found, torch.cat([texts, texts[list(repeated)]]), count)
            if result.status == "converged":
                return result
    return _measured(name, observation, found, texts, count)


def _measured(name: str, observation: Observation, found: WholeTexts, texts: Tensor, count: int) -> Reconstruction:
    """A batch of so many texts of which some may be missing."""
    task = observation.task
    missing = count - len(texts)
    inputs = torch.cat([texts, torch.full((missing, *task.space.shape), NO_TOKEN)])
    variable = task.encode(inputs.clamp(min=0)) * (inputs != NO_TOKEN)[..., None].to(task.device, task.dtype)
    targets, trouble = _targets(observation, texts, variable)
    blank = -1 if task.classified == "example" else IGNORED
    targets = torch.cat([targets, torch.full((missing, *targets.shape[1:]), blank)])
    probabilities = task.target_probabilities(targets)
    objective = mismatch(observation, variable, probabilities) if len(texts) and not trouble else math.inf
    reproduced = objective <= REPRODUCED and not missing
    return Reconstruction(
        inputs=inputs,
        targets=targets,
        targets_given=observation.targets is not None,
        objective=objective,
        evaluations=found.evaluations,
        seconds=0.0,
        status="converged" if reproduced else "budget",
        attack=name,
        variable=variable,
        target_probabilities=probabilities,
        message=trouble or f"the update is met to a relative squared error of {objective:.1e}",
    )


def _targets(observation: Observation, texts: Tensor, variable: Tensor) -> tuple[Tensor, str]:
    """Targets of known texts `[M]` or `[M, T]`, and what kept them from being found."""
    task = observation.task
    blank = torch.full((len(texts), *task.target_shape[:-1]), -1 if task.classified == "example" else IGNORED)
    if not len(texts):
        return blank, "no text was found"
    if task.classified == "token":
        words = hidden_words(observation, texts)
        return (blank, words) if isinstance(words, str) else (words, "")
    return targets_of(observation, variable[: len(texts)]), ""
