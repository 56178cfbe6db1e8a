"""How exactly an update can be expected to agree: number formats, low-precision arithmetic, stated noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.clients import DPSGD, Aggregate, Client
from gradleak.consistency.comparison import Tensors, compare, flat, relative
from gradleak.consistency.hypotheses import Setting
from gradleak.defenses import Defense
from gradleak.defenses.applying import defended
from gradleak.seeds import stage_generator
from gradleak.tasks import ModelState, Task
from gradleak.updates import Update, UpdateKind

Recompute = Callable[[Setting], dict[str, Tensor]]
"""From a setting to the update that it would give, by the model's names and turned to the observed update's kind."""

# What equal computations leave on different machines: sums in another order, other convolution algorithms.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_NARROW = (torch.bfloat16, torch.float16)
# A rounded update may differ by this many times the rounding of the recomputed one.
_ROUNDING_SLACK = 2.0
# Draws of a stated random defense, to learn how large its noise is, and how much more than that is accepted.
_DRAWS, _NOISE_SLACK = 8, 1.5
# Arithmetic in a narrow format accumulates more than the rounding of weights and inputs, but not much more.
_ARITHMETIC_SLACK = 3.0


@dataclass(frozen=True)
class Precision:
    """How exactly an update can be expected to agree.

    Attributes:
        tolerance: largest relative error that counts as equal.
        statement: one sentence for people.
    """

    tolerance: float
    statement: str


def precision_of(observed: Tensors, computed: Tensors, model: torch.dtype) -> Precision:
    """The tolerance that follows from how the update was stored and computed.

    Values that fit a narrower format than the one they are stored in were rounded to it on their way.

    Args:
        observed: the update by name.
        computed: the recomputed update by name.
        model: floating-point type of the model.

    Returns:
        The tolerance and its reason.
    """
    stored = max((tensor.dtype for tensor in observed.values()), key=lambda dtype: torch.finfo(dtype).eps)
    narrow = stored
    for dtype in _NARROW:
        if torch.finfo(dtype).eps > torch.finfo(narrow).eps and all(
            _fits(tensor, dtype) for tensor in observed.values()
        ):
            narrow = dtype
            break
    tolerance = max(_TOLERANCE.get(dtype, 1e-4) for dtype in (stored, model))
    short = str(narrow).removeprefix("torch.")
    reason = f"stored as {short}"
    if narrow != stored:
        reason = f"stored as {str(stored).removeprefix('torch.')}, but every value fits {short}: rounded to it before"
    if narrow in _NARROW:
        # Measured, not assumed: small entries fall among the subnormal numbers of float16.
        g = flat(computed, observed)
        tolerance = max(tolerance, _ROUNDING_SLACK * relative(g.to(narrow).double() - g, g))
    return Precision(tolerance, f"{reason}; equal means a relative error of at most {tolerance:.1g}")


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    return bool((tensor.to(dtype).to(tensor.dtype) == tensor).all())


def stated_noise(computed: Tensors, update: Update, kind: UpdateKind, defenses: Sequence[Defense]) -> float:
    """Size relative to the update of the difference that the stated defenses' random draws make."""
    # The defended update stands in for the undefended one: noise does not depend on it, rounding hardly.
    largest = 0.0
    for seed in range(_DRAWS if defenses else 0):
        drawn = defended(defenses, computed, kind, seed=seed)
        difference = flat(drawn, update.tensors) - flat(computed, update.tensors)
        largest = max(largest, relative(difference, flat(update.tensors, update.tensors)))
    return largest


def client_noise(setting: Setting, task: Task, computed: Tensors, update: Update) -> float:
    """Size relative to the update of the noise that the client adds itself, as DP-SGD does; 0 for others."""
    if not adds_noise(setting.client):
        return 0.0
    h, largest = flat(update.tensors, update.tensors), 0.0
    for seed in range(_DRAWS):
        step = setting.client.bind(task, setting.state, stage_generator(seed, "client"))
        drawn = step(setting.variable, setting.probabilities)
        largest = max(largest, relative(flat(drawn, update.tensors) - flat(computed, update.tensors), h))
    return largest


def adds_noise(client: Client) -> bool:
    """Whether a client adds noise of its own to what it sends."""
    if isinstance(client, Aggregate):
        return any(map(adds_noise, client.clients))
    return isinstance(client, DPSGD) and client.noise_multiplier > 0


def with_noise(precision: Precision, noise: float) -> Precision:
    """The precision widened by noise of this size relative to the update."""
    tolerance = max(precision.tolerance, _NOISE_SLACK * noise)
    return Precision(tolerance, f"{precision.statement}; the stated random draws add {noise:.2g}")


def unbiased(observed: Tensors, computed: Tensors, noise: float) -> bool:
    """Whether the difference leans along the recomputed update no more than independent noise would."""
    h, g = flat(observed, observed), flat(computed, observed)
    along = float((h - g).dot(g)) / max(float(g.norm()), 1e-300)
    return abs(along) <= 5 * noise * float(h.norm()) / len(h) ** 0.5 + 1e-4 * float(g.norm())


def low_precision(setting: Setting, recompute: Recompute, computed: Tensors, error: float) -> Precision | None:
    """The narrow arithmetic that would leave such an error, if there is one.

    Args:
        setting: how the update is believed to be made.
        recompute: what makes updates.
        computed: the recomputed update, of the tensors that are compared.
        error: relative error of the observed update.

    Returns:
        A precision that contains the error; None if the error is larger than low precision leaves, or so large
        that other inputs would agree as well.
    """
    for dtype in _NARROW[::-1]:
        parameters = {name: value.to(dtype).to(value.dtype) for name, value in setting.state.parameters.items()}
        rounded = replace(
            setting,
            state=ModelState(parameters, setting.state.constants),
            variable=setting.variable.to(dtype).to(setting.variable.dtype),
        )
        result = {name: tensor.to(dtype).to(tensor.dtype) for name, tensor in recompute(rounded).items()}
        left = compare(computed, result).relative_error
        tolerance = _ARITHMETIC_SLACK * left
        if error <= tolerance and error <= 0.5 * other_inputs(setting, recompute, computed):
            short = str(dtype).removeprefix("torch.")
            why = f"agrees as far as arithmetic in {short} would, but not as float32: computed in low precision?"
            return Precision(tolerance, f"{why} Accepted is a relative error of at most {tolerance:.1g}")
    return None


def other_inputs(setting: Setting, recompute: Recompute, computed: Tensors) -> float:
    """Relative error that other inputs with the same labels would have: how much agreement can say about inputs."""
    axes = tuple(range(1, setting.variable.dim()))
    return compare(computed, recompute(replace(setting, variable=setting.variable.flip(axes)))).relative_error
