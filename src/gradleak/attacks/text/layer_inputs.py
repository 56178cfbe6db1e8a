"""What enters the linear modules of a model of tokens, for any token ids: by running the model itself."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradleak.clients.settings import AUTOCAST_TYPES, StepSettings
from gradleak.clients.stateless import stateless_copy
from gradleak.threat import Observation
from gradleak.tokens import TokenSpace

# Positions of the probes that tell how the modules depend on the tokens.
_PROBED = 8
# Relative change below which a module's input did not change: rounding of other orders of summation.
_UNCHANGED = 1e-5


@dataclass(frozen=True)
class Module:
    """A linear module as the model uses it.

    Attributes:
        name: its name in the model.
        weight: name of its weight in the model's state.
        transposed: whether the weight is `[in, out]`, as that of transformers' Conv1D, instead of `[out, in]`.
        width: size of its input.
        depth: 0 if its input at a position depends on the token and the position alone, 1 if on other tokens too.
        group: modules with the same number receive the same input.
    """

    name: str
    weight: str
    transposed: bool
    width: int
    depth: int
    group: int


@dataclass(frozen=True)
class Structure:
    """How a model's linear modules depend on the tokens, as numerical probes tell.

    Attributes:
        modules: in the order in which they run.
        causal: whether what is at a position never depends on later tokens.
        positional: whether inputs of depth 0 depend on the position.
        fixed_length: whether the model takes sequences of the full length only.
    """

    modules: tuple[Module, ...]
    causal: bool
    positional: bool
    fixed_length: bool


class Reached(Exception):  # noqa: N818  # no error: it ends a forward pass early
    """Everything wanted was recorded."""


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """Runs the model of an observation on token ids and records what enters chosen modules.

    Attributes:
        space: of the tokens.
        module: a private copy of the model, without dropout.
        state: its values, by name.
        autocast: type of the client's mixed precision, or None.
        running: the ids `[N, T]` of the pass that runs now.
    """

    space: TokenSpace
    module: nn.Module
    state: Mapping[str, Tensor]
    autocast: torch.dtype | None = None
    running: list[Tensor] = field(default_factory=list[Tensor])

    def __call__(self, tokens: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Run the model until the last of the modules has its input.

        Args:
            tokens: ids `[N, T]`, T at most the space's length; the space's padding is masked out.
            names: of modules.

        Returns:
            What enters them in their first call `[N, T, d]`, by name, without a graph; a module that does not run is
            left out.
        """
        found: dict[str, Tensor] = {}

        def record(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, arguments: tuple[object, ...], keywords: Mapping[str, object]) -> None:
                entering = _first_tensor(arguments, keywords)
                if entering is not None and name not in found:
                    found[name] = entering.detach()
                    if len(found) == len(names):
                        raise Reached

            return hook

        with _hooks(self.module, {name: record(name) for name in names}):
            self.run(tokens)
        return {name: self._as_used(value) for name, value in found.items()}

    def run(self, tokens: Tensor, *, graph: bool = False) -> Tensor | None:
        """The model's outputs `[N, C]` or `[N, T, C]` at ids `[N, T]`, or None if a hook ended the pass early."""
        self.running.append(tokens)
        # PyTorch's fused encoder layers run no hooks of the modules in them.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.set_grad_enabled(graph), sdpa_kernel(SDPBackend.MATH), self._precision():
                return self.space.outputs(
                    self.module, self.state, tokens, lambda rows: nn.functional.embedding(tokens, rows)
                )
        except Reached:
            return None
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            self.running.pop()

    def _precision(self) -> AbstractContextManager[object]:
        device = next(self.module.parameters()).device.type
        return nullcontext() if self.autocast is None else torch.autocast(device, self.autocast)

    def _as_used(self, entering: Tensor) -> Tensor:
        """Under mixed precision a linear module rounds its input first."""
        return entering if self.autocast is None else entering.to(self.autocast).float()


def layer_inputs(observation: Observation) -> LayerInputs:
    """Prepare to run an observation's model.

    Args:
        observation: of a task with a `TokenSpace`; it is not changed.

    Returns:
        The runner.
    """
    task, state, client = observation.task, observation.state, observation.client
    assert isinstance(task.space, TokenSpace)
    settings = client if isinstance(client, StepSettings) else None
    module = stateless_copy(task.model, mode="eval" if settings is None else settings.mode, dropout="off").module
    own = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    values = {name: value for name, value in {**state.constants, **state.parameters}.items() if name in own}
    autocast = None if settings is None or settings.autocast is None else AUTOCAST_TYPES[settings.autocast]
    return LayerInputs(task.space, module, values, autocast)


def structure_of(inputs: LayerInputs) -> Structure:
    """Find the linear modules that see every token, in the order in which they run, and how they depend on the tokens.

    Linear is whatever has a matrix `weight` (`in_proj_weight` in `nn.MultiheadAttention`) and receives `[N, T, d]` with
    d one of the matrix's sides: `nn.Linear`, Conv1D, the parts of LoRA. A matrix that several modules share is left
    out, since its gradient mixes theirs.

    Args:
        inputs: the model.

    Returns:
        The structure, by four short probes of made-up tokens.
    """
    space = inputs.space
    words = [token for token in range(space.vocabulary) if token != space.padding]
    # A single token may be stretched to the full length by broadcasting.
    fixed = space.length > 1 and not _takes(inputs, torch.tensor([words[:1] * max(1, min(2, space.length - 1))]))
    length = space.length if fixed else min(space.length, _PROBED)
    base = torch.tensor([words[(7 * place + 1) % len(words)] for place in range(length)])[None]
    first, last, same = base.clone(), base.clone(), torch.full_like(base, words[1])
    first[0, 0] = last[0, -1] = words[(7 * length + 3) % len(words)]
    plain, (changed_first, changed_last, constant) = (
        _recorded(inputs, base),
        (_recorded(inputs, probe) for probe in (first, last, same)),
    )
    modules: list[Module] = []
    causal, positional = True, False
    seen: dict[int, int] = {}
    for name, (entering, weight, transposed) in plain.items():
        depends_first = length > 1 and _differ(entering[0, -1], changed_first[name][0][0, -1])
        depends_last = length > 1 and _differ(entering[0, 0], changed_last[name][0][0, 0])
        causal &= not depends_last
        depth = int(depends_first or depends_last)
        repeated = constant[name][0]
        positional |= depth == 0 and length > 1 and _differ(repeated[0, 0], repeated[0, -1])
        group = seen.setdefault(id(entering), len(seen))
        modules.append(Module(name, weight, transposed, entering.shape[-1], depth, group))
    return Structure(tuple(modules), causal, positional, fixed)


def _takes(inputs: LayerInputs, tokens: Tensor) -> bool:
    """Whether the model accepts a sequence of this length."""
    try:
        inputs.run(tokens)
    # The model is foreign code: whatever it raises at a short sequence, it wants full ones.
    except Exception:  # noqa: BLE001
        return False
    return True


def _recorded(inputs: LayerInputs, tokens: Tensor) -> dict[str, tuple[Tensor, str, bool]]:
    """By the name of each linear module in order: its input, its weight's name, whether that is transposed."""
    found: dict[str, tuple[Tensor, str, bool]] = {}

    def record(name: str, weight: str, matrix: Tensor) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[object, ...], keywords: Mapping[str, object]) -> None:
            entering = _first_tensor(arguments, keywords)
            if entering is None or name in found:
                return
            if entering.shape[:-1] == tokens.shape and entering.shape[-1] in matrix.shape:
                found[name] = (entering, weight, _transposed(module, matrix, entering))

        return hook

    hooks = {name: record(name, *weight) for name, weight in _weights(inputs.module, inputs.state).items()}
    with _hooks(inputs.module, hooks):
        inputs.run(tokens)
    return found


def _transposed(module: nn.Module, matrix: Tensor, entering: Tensor) -> bool:
    """Whether a module multiplies by its matrix `[in, out]` from the right; where that is square, by what it does."""
    if matrix.shape[0] != matrix.shape[1]:
        return entering.shape[-1] == matrix.shape[0]
    # The hooks of the module are already done with, and its own method runs none.
    leaving = module.forward(entering)
    if not isinstance(leaving, Tensor):
        return False
    bias = getattr(module, "bias", None)
    leaving = leaving - bias if isinstance(bias, Tensor) else leaving
    as_linear, as_transposed = (leaving - entering @ one for one in (matrix.T, matrix))
    return float(as_transposed.norm()) < float(as_linear.norm())


def _weights(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """By module: name and value of a matrix that only this module has."""
    owners: dict[int, int] = {}
    candidates: dict[str, tuple[str, nn.Parameter]] = {}
    for name, one in module.named_modules():
        for own, parameter in one.named_parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
            if own in {"weight", "in_proj_weight"} and parameter.dim() == 2 and not isinstance(one, nn.Embedding):
                candidates[name] = (f"{name}.{own}".lstrip("."), parameter)
    return {
        name: (full, state[full])
        for name, (full, parameter) in candidates.items()
        if owners[id(parameter)] == 1 and full in state
    }


def _first_tensor(arguments: tuple[object, ...], keywords: Mapping[str, object]) -> Tensor | None:
    """The first floating-point tensor that a module is called with."""
    for value in (*arguments, *keywords.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


def _differ(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) > _UNCHANGED * float(one.abs().max())


@contextmanager
def _hooks(module: nn.Module, hooks: Mapping[str, Callable[..., None]]) -> Generator[None]:
    handles = [
        module.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True) for name, hook in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
