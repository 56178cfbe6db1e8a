"""From the beginnings of texts to whole texts: how often each occurs, where it ends, and what its targets are.

The last token of a text is only a target to a causal language model, so no layer's input depends on it. With all
prefixes q known, the inputs `a_q` of a late linear module are known as well, and its gradient, the sum of
`(dL/dy_q) a_q^T`, gives `dL/dy_q` of every prefix as the solution of a linear system. One occurrence of the next token
t behind q contributes `J_q^T (W^T p_q - W_t) / M` to it, with the derivative `J_q` of the head's input by the module's
output, the softmax `p_q`, the head's matrix W and M targets in all: the t that fits is the next token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.attacks.text.layer_inputs import Module
from gradleak.attacks.text.prefixes import Prefix
from gradleak.attacks.text.span import SpanTest
from gradleak.attacks.text.tails import Head, Tail, along_paths, head_of

# Inputs that are this near to linearly dependent, as a share of the largest singular value, give no solution.
_DEPENDENT = 1e-7
# Share of a prefix's signal that its known next tokens may leave unexplained.
_UNEXPLAINED = 0.1
# A next token must explain this share of what is left, as a cosine.
_EXPLAINS = 0.7
# Signals below this share of the typical one are none.
_NONE = 0.05
# Different next tokens behind one prefix that no other text continues.
_MOST_ENDS = 6
# Prefixes of longer texts that are searched for ends.
_MOST_HIDDEN = 12


@dataclass(frozen=True)
class Text:
    """One recovered text.

    Attributes:
        tokens: its ids.
        target: the class of the text; None for language models.
        weight: how much of the loss it is, in units of the update: proportional to how often it occurs.
    """

    tokens: Prefix
    target: int | None
    weight: float


@dataclass(frozen=True, eq=False)
class Readout:
    """What late gradients say of the prefixes.

    Attributes:
        module: whose gradient it was.
        texts: what was read.
    """

    module: str
    texts: tuple[Text, ...]


@dataclass(frozen=True, eq=False)
class _Signals:
    """At every prefix.

    Attributes:
        test: of the observation.
        tail: from the module to the logits.
        signal: `dL/dy_q`, `[out]` each.
        entering: the head's inputs, `[d]` each.
    """

    test: SpanTest
    tail: Tail
    signal: Mapping[Prefix, Tensor]
    entering: Mapping[Prefix, Tensor]


def read_texts(
    test: SpanTest, gradient: Mapping[str, Tensor], leaves: Sequence[Prefix], classes: int, *, next_token: bool
) -> Readout | str:
    """Read texts and targets behind the prefixes from the last module whose gradient tells the prefixes apart.

    Args:
        test: of the observation.
        gradient: the update in the direction of the gradient, by name.
        leaves: prefixes that no other continues.
        classes: number of classes C.
        next_token: whether the targets are the next tokens.

    Returns:
        The texts, or one clause why there are none.
    """
    head = head_of(test.inputs, classes)
    if head is None:
        return "no linear module gives the logits"
    count = len({leaf[:end] for leaf in leaves for end in range(1, len(leaf) + 1)})
    # Behind much noise false prefixes pass by the thousand, and to run the model at all of them would be in vain.
    if count > max(module.width for module in test.structure.modules):
        return f"{count} prefixes are more than any module's inputs tell apart"
    for module in reversed(test.structure.modules):
        if count > module.width:
            continue
        # What is made of several modules, as PyTorch's attention, does more than multiply.
        plain = not list(test.inputs.module.get_submodule(module.name).children())
        if plain and module.weight in gradient and bool(gradient[module.weight].any()):
            signals = _signals(test, module, gradient[module.weight], leaves, head)
            if signals is not None:
                read = _next_tokens if next_token else _classes
                return Readout(module.name, tuple(read(signals, leaves)))
    return "no gradient of a late linear module tells the texts apart"


def _signals(test: SpanTest, module: Module, sent: Tensor, leaves: Sequence[Prefix], head: Head) -> _Signals | None:
    """Solve for the derivatives by a module's outputs at all prefixes; None where they are too much alike."""
    inputs = _at_prefixes(test, [module.name, head.name], leaves)
    prefixes = list(inputs[0])
    matrix = torch.stack([inputs[0][prefix] for prefix in prefixes]).double()
    values = torch.linalg.svdvals(matrix)
    # Attention to one repeated token without positions gives the same however often it is repeated.
    alike = sum(len(prefix) > 1 and len(set(prefix)) == 1 for prefix in prefixes)
    if float(values[len(values) - 1 - alike]) < _DEPENDENT * float(values[0]):
        return None
    weight = sent.double() if module.transposed else sent.double().T
    solved = torch.linalg.pinv(matrix.T, rtol=_DEPENDENT) @ weight
    tail = Tail(test.inputs, module.name, head)
    return _Signals(test, tail, dict(zip(prefixes, solved, strict=True)), inputs[1])


def _at_prefixes(test: SpanTest, names: Sequence[str], leaves: Sequence[Prefix]) -> list[dict[Prefix, Tensor]]:
    """The inputs of modules at the last token of every prefix."""
    found: list[dict[Prefix, Tensor]] = [{} for _ in names]
    for length, places in along_paths(leaves).items():
        entering = test.inputs(_rows(test, [leaves[place] for place in places]), list(dict.fromkeys(names)))
        for row, place in enumerate(places):
            for end in range(1, length + 1):
                for store, name in zip(found, names, strict=True):
                    store[leaves[place][:end]] = entering[name][row, end - 1]
    return found


def _rows(test: SpanTest, prefixes: Sequence[Prefix]) -> Tensor:
    """Ids of prefixes of one length; what follows them in models of a fixed length does not matter."""
    length = test.inputs.space.length
    fill = length - len(prefixes[0]) if test.structure.fixed_length else 0
    return torch.tensor([[*prefix, *prefix[-1:] * fill] for prefix in prefixes])


def _next_tokens(signals: _Signals, leaves: Sequence[Prefix]) -> list[Text]:
    """Texts of a language model: known next tokens explain inner prefixes, and the others end texts."""
    weights: dict[tuple[Prefix, int], float] = {}
    # Where a module's output reaches other positions, only what ends a text has a signal of its own.
    left = {leaf: signals.signal[leaf] for leaf in leaves}
    if not signals.tail.mixes(_rows(signals.test, [max(leaves, key=len)])):
        weights, left = _explained_by_children(signals, leaves)
    ends = set(leaves)
    for prefix in [*leaves, *_hidden_ends(signals, left, ends)]:
        for token, weight in _ends_behind(signals, prefix, left[prefix], surely=prefix in ends):
            weights[prefix, token] = weights.get((prefix, token), 0.0) + weight
    behind: dict[Prefix, float] = {}
    for (prefix, _), weight in weights.items():
        behind[prefix] = behind.get(prefix, 0.0) + weight
    ending = {
        (*prefix, token): weight - behind.get((*prefix, token), 0.0) for (prefix, token), weight in weights.items()
    }
    unit = torch.tensor([weight for text, weight in ending.items() if text[:-1] in ends]).median()
    return [Text(text, None, weight) for text, weight in ending.items() if weight > 0.5 * float(unit)]


def _hidden_ends(signals: _Signals, left: Mapping[Prefix, Tensor], ends: set[Prefix]) -> list[Prefix]:
    """Prefixes of longer texts whose signal is not explained by the tokens known to follow: another text ends there."""
    typical = float(torch.stack([signals.signal[leaf].norm() for leaf in ends]).median())
    sizes = {prefix: float(signals.signal[prefix].norm()) for prefix in left if prefix not in ends}
    shares = {prefix: float(left[prefix].norm()) / size for prefix, size in sizes.items() if size > _NONE * typical}
    if not shares:
        return []
    # Noise and drifting weights leave something everywhere.
    usual = float(torch.tensor(list(shares.values())).median())
    limit = max(_UNEXPLAINED, 3 * usual)
    return sorted((one for one in shares if shares[one] > limit), key=lambda one: -shares[one])[:_MOST_HIDDEN]


def _explained_by_children(
    signals: _Signals, leaves: Sequence[Prefix]
) -> tuple[dict[tuple[Prefix, int], float], dict[Prefix, Tensor]]:
    """How much of each prefix's signal the tokens that are known to follow explain, and what they leave."""
    directions: dict[Prefix, dict[int, Tensor]] = {}
    head = signals.tail.head
    for length, places in along_paths(leaves).items():
        if length < 2:
            continue
        chosen = [leaves[place] for place in places]
        sequences = _rows(signals.test, chosen)
        weight = head.weight.double()
        entering = torch.stack(
            [torch.stack([signals.entering[one[:end]] for end in range(1, length)]) for one in chosen]
        )
        missed = head.probabilities(entering)
        missed -= nn.functional.one_hot(sequences[:, 1:length], missed.shape[-1])
        if signals.tail.module == head.name:
            products = missed
        else:
            cotangents = torch.zeros(*sequences.shape, weight.shape[1], dtype=torch.float64)
            cotangents[:, : length - 1] = missed @ weight
            products = signals.tail.products(sequences, cotangents).double()
        for row, one in enumerate(chosen):
            for end in range(1, len(one)):
                directions.setdefault(one[:end], {})[one[end]] = products[row, end - 1]
    weights: dict[tuple[Prefix, int], float] = {}
    left = dict(signals.signal)
    for prefix, known in directions.items():
        columns = torch.stack(list(known.values()), dim=1)
        solved = torch.linalg.lstsq(columns, signals.signal[prefix][:, None]).solution[:, 0]
        left[prefix] = signals.signal[prefix] - columns @ solved
        weights.update({(prefix, token): float(one) for token, one in zip(known, solved, strict=True)})
    return weights, left


def _directions(signals: _Signals, prefix: Prefix) -> Tensor:
    """What one occurrence of each target behind a prefix contributes to its signal, `[C, out]`."""
    head, tail = signals.tail.head, signals.tail
    probabilities = head.probabilities(signals.entering[prefix])
    if tail.module == head.name:
        return probabilities - torch.eye(len(probabilities), dtype=torch.float64)
    weight = head.weight.double()
    return (probabilities @ weight - weight) @ tail.jacobian(_rows(signals.test, [prefix]), len(prefix) - 1)


def _ends_behind(signals: _Signals, prefix: Prefix, signal: Tensor, *, surely: bool) -> list[tuple[int, float]]:
    """The fewest next tokens that explain a signal, with their weights: the best one each time."""
    directions = _directions(signals, prefix)
    norms = directions.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    chosen: list[int] = []
    solved, left = torch.zeros(0), signal
    for number in range(_MOST_ENDS):
        cosines = directions @ left / (norms * left.norm())
        best = int(cosines.argmax())
        if best in chosen or (float(cosines[best]) < _EXPLAINS and not (surely and number == 0)):
            break
        chosen.append(best)
        columns = directions[chosen].T
        solved = torch.linalg.lstsq(columns, signal[:, None]).solution[:, 0]
        left = signal - columns @ solved
        if float(left.norm()) < _UNEXPLAINED * float(signal.norm()):
            break
    return [(token, float(weight)) for token, weight in zip(chosen, solved, strict=True)]


def _classes(signals: _Signals, leaves: Sequence[Prefix]) -> list[Text]:
    """Texts of a classifier: a signal is at their last tokens only."""
    largest = max(float(signal.norm()) for signal in signals.signal.values())
    found: list[Text] = []
    ends = set(leaves)
    for prefix, signal in signals.signal.items():
        if prefix in ends or float(signal.norm()) > _NONE * largest:
            found += [
                Text(prefix, target, weight)
                for target, weight in _ends_behind(signals, prefix, signal, surely=prefix in ends)
            ]
    return found
