"""Equations for tokens from a linear module's gradient: its rows lie in the span of the module's inputs.

For `y = W x` at tokens x, `dL/dW` is the sum of `(dL/dy) x^T` over all tokens, so each of its rows is a combination of
the inputs x. With fewer tokens than the input is wide, that span is a proper subspace, which the true inputs lie in and
others do not: the test of DAGER (Petrov et al., NeurIPS 2024, section 4), for any module and any model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.disturbance import undisturbed
from gradleak.attacks.text.gradient_noise import added_noise, row_noise
from gradleak.attacks.text.gradient_rank import numerical_rank, rank_above_unknown_noise, right_singular
from gradleak.attacks.text.layer_inputs import LayerInputs, Module, Structure, layer_inputs, structure_of
from gradleak.clients import Gradient, LocalSGD
from gradleak.threat import Observation
from gradleak.tokens import TokenSpace

# Equations of a depth are set up until their widths sum up to this many times that of the embedding.
_ENOUGH = 4
# Share of the width that the span of an update of several steps may have, and how much nearer to it than made-up inputs
# the true ones must be (measured: 5 to 100 times after 10 steps).
_LEADING = 0.6
_NEARER = 4.0
# Made-up sequences that equations must refuse.
_PROBES = 16
# Relative error of a recomputed layer input, in units of its type's rounding.
_RECOMPUTED = 30.0


ACCEPTED = 4.0
"""Excess up to which an input counts as in the span: true ones have about 1, less where rounding is overestimated."""


@dataclass(frozen=True, eq=False)
class Equation:
    """What the gradients of modules with the same input say of that input.

    Attributes:
        modules: their names; the first one's input is tested.
        depth: 0 if that input depends on its own token and position alone, 1 if on other tokens too.
        width: size d of the input.
        rank: dimensions b of the span.
        outputs: rows of the stacked gradients; a rank that reaches them may hide further inputs.
        directions: orthonormal, `[d, d]`: the first b rows span the inputs, the others are orthogonal to all of them.
        values: of the first b, singular values in units of the noise in one entry, descending `[b]`.
        floor: relative error of a recomputed input.
        usable: whether made-up tokens fail the test, so that passing it says something. They do not where as many
            tokens as the input is wide fill the space, or where noise hides what they lack.
    """

    modules: tuple[str, ...]
    depth: int
    width: int
    rank: int
    outputs: int
    directions: Tensor
    values: Tensor
    floor: float
    usable: bool = False

    @property
    def basis(self) -> Tensor:
        """Orthonormal rows that span the inputs `[b, d]`."""
        return self.directions[: self.rank]

    def distance(self, inputs: Tensor) -> Tensor:
        """How far inputs are from the span, as a share of their norm.

        Args:
            inputs: `[..., d]`; they are not changed.

        Returns:
            From 0 (in the span) to 1, `[...]`.
        """
        unit = torch.nn.functional.normalize(inputs.to(self.directions), dim=-1)
        return (unit @ self.directions[self.rank :].T).norm(dim=-1)

    def excess(self, inputs: Tensor) -> Tensor:
        """The distance in units of what the gradient's own errors make of it for an input that is in the span.

        A direction with a small singular value is known less well, so that inputs which need it may lie further off.

        Args:
            inputs: `[..., d]`; they are not changed.

        Returns:
            About 1 or below for true inputs, far above for others unless noise hides them, `[...]`.
        """
        unit = torch.nn.functional.normalize(inputs.to(self.directions), dim=-1)
        along = unit @ self.directions.T
        outside = along[..., self.rank :].square().sum(dim=-1)
        expected = (along[..., : self.rank] / self.values).square().sum(dim=-1) * (self.width - self.rank)
        return (outside / (expected + self.floor**2)).sqrt()


@dataclass(frozen=True, eq=False)
class SpanTest:
    """All equations of an observation.

    Attributes:
        inputs: runs the model.
        structure: of the model.
        equations: with a usable span, in the order in which their modules run; of each depth only as many as tell a
            token from all others with certainty.
        unusable: others that were sent, for messages.
    """

    inputs: LayerInputs
    structure: Structure
    equations: tuple[Equation, ...]
    unusable: tuple[Equation, ...]

    def of_depth(self, depth: int) -> tuple[Equation, ...]:
        """The usable ones of a depth."""
        return tuple(equation for equation in self.equations if equation.depth == depth)

    def best(self, depth: int) -> Equation | None:
        """The usable one of a depth that holds the most inputs, and among such the one known most exactly."""
        return max(self.of_depth(depth), key=lambda one: (one.rank, float(one.values[-1])), default=None)

    def why_not(self, depth: int) -> str:
        """One clause: why no equation of a depth is usable."""
        known = [equation for equation in self.unusable if equation.depth == depth]
        where = "token and position alone" if depth == 0 else "several tokens"
        if not known:
            return f"no gradient was sent of a linear module whose input depends on {where}"
        best = max(known, key=lambda one: min(one.width, one.outputs))
        most = min(best.width, best.outputs)
        return (
            f"the gradients of modules whose input depends on {where} span everything (rank {best.rank} of {most} in "
            f"{best.modules[0]}): there are at least as many tokens as that, or noise hides the rest"
        )

    def excess(self, tokens: Tensor, equations: Sequence[Equation]) -> Tensor:
        """The largest excess over equations of inputs at every position, `[N, T]`, of ids `[N, T]`."""
        entering = self.inputs(tokens, [equation.modules[0] for equation in equations])
        return torch.stack([one.excess(entering[one.modules[0]]) for one in equations]).amax(dim=0)


def span_test(observation: Observation) -> SpanTest:
    """Set up every equation that an update gives.

    Args:
        observation: of a task with a `TokenSpace`; it is not changed.

    Returns:
        The equations; those with the same input are stacked into one.
    """
    assert isinstance(observation.task.space, TokenSpace)
    inputs = layer_inputs(observation)
    structure = structure_of(inputs)
    enough = _ENOUGH * observation.task.space.embedding_of(inputs.module)[1].embedding_dim
    groups: dict[int, list[Module]] = {}
    for module in structure.modules:
        if module.weight in observation.update.tensors:
            groups.setdefault(module.group, []).append(module)
    names = [modules[0].name for modules in groups.values()]
    made_up = _made_up(inputs.space)
    probes = inputs(made_up, names)
    made_up[:, -1] = made_up[:, -1].roll(1)
    others = inputs(made_up, names)
    drifts = not one_gradient(observation)
    usable: list[Equation] = []
    unusable: list[Equation] = []
    for modules in groups.values():
        depth, width = modules[0].depth, modules[0].width
        if sum(one.width for one in usable if one.depth == depth) + width <= enough:
            equation = _equation(observation, inputs, modules)
            if equation is not None:
                entering, changed = probes[modules[0].name], others[modules[0].name][:, -1]
                equation = _of_drifting_weights(equation, entering[:, -1], changed) if drifts else equation
                tells = _tells(equation, entering)
                (usable if tells else unusable).append(replace(equation, usable=tells))
    return SpanTest(inputs, structure, tuple(usable), tuple(unusable))


def _made_up(space: TokenSpace) -> Tensor:
    """A few sequences of full length, `[N, T]`, without padding."""
    words = torch.tensor([token for token in range(space.vocabulary) if token != space.padding])
    places = torch.arange(_PROBES * space.length).view(_PROBES, space.length)
    return words[(places * 37 + 11) % len(words)]


def _tells(equation: Equation, probes: Tensor) -> bool:
    """Whether made-up inputs `[N, T, d]` are mostly outside of a span that may hold every input."""
    # A rank that reaches the number of rows may be less than the inputs have.
    proper = 0 < equation.rank < min(equation.width, equation.outputs)
    return proper and float(equation.excess(probes).median()) > ACCEPTED


def one_gradient(observation: Observation) -> bool:
    """Whether the update is known to be of one step, so that all inputs are those of the weights before it."""
    client = observation.client
    if observation.update.kind == "gradient":
        return True
    if not isinstance(client, LocalSGD):
        return False
    whole = client.batch_size is None or client.batch_size >= (observation.batch_size or 1)
    return client.epochs == 1 and whole and client.weight_decay == 0


def _of_drifting_weights(equation: Equation, probes: Tensor, changed: Tensor) -> Equation:
    """The equation of an update of several steps, whose inputs are those of weights that move.

    They leave the span of the first step's inputs by an unknown little. So only the leading directions count, and an
    input is accepted when it is much nearer to them than another last token takes made-up inputs, `[N, d]` each.

    Returns:
        The equation with fewer directions and a floor instead of known errors.
    """
    rank = min(equation.rank, int(_LEADING * equation.width))
    cut = replace(equation, rank=rank, values=torch.full_like(equation.values[:rank], torch.inf))
    moved = (probes - changed).norm(dim=-1) / probes.norm(dim=-1)
    near = float((cut.distance(probes - changed) * moved.clamp(max=1)).quantile(0.1))
    return replace(cut, floor=max(near / (_NEARER * ACCEPTED), equation.floor))


def _equation(observation: Observation, inputs: LayerInputs, modules: Sequence[Module]) -> Equation | None:
    """The equation of modules with one input, or None where their gradients are zero."""
    known: list[Tensor] = []
    raw: list[Tensor] = []
    for module in modules:
        sent, weight = observation.update.tensors[module.weight], inputs.state[module.weight]
        sent, weight = (sent.T, weight.T) if module.transposed else (sent, weight)
        kept = sent.abs().amax(dim=1) > 0
        if bool(kept.any()):
            raw.append(sent[kept].double())
            known.append(raw[-1] / row_noise(sent[kept], weight[kept], observation)[:, None])
    if not raw:
        return None
    rows, width = sum(map(len, raw)), modules[0].width
    values, directions = right_singular(torch.cat(known))
    rank, scale = numerical_rank(values, rows), 1.0
    exact = undisturbed(observation) and isinstance(observation.client, Gradient)
    if rank == min(rows, width) and not exact and not added_noise(observation):
        # Unknown noise is taken to be the same in every entry.
        values, directions = right_singular(torch.cat(raw))
        rank, scale = rank_above_unknown_noise(values, rows)
    dtype = observation.task.dtype
    coarse = inputs.autocast if inputs.autocast is not None else dtype
    first = modules[0]
    return Equation(
        tuple(module.name for module in modules),
        first.depth,
        width,
        rank,
        rows,
        directions.to(dtype),
        (values[:rank] / scale).to(dtype),
        _RECOMPUTED * torch.finfo(dtype).eps if coarse == dtype else torch.finfo(coarse).eps,
    )
