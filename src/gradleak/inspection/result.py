"""What an inspection says about a model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gradleak.clients.stateless import Mode

Kind = Literal[
    "no double backward",
    "step",
    "jump",
    "choice",
    "piecewise linear",
    "kink",
    "curvature jump",
    "random",
    "custom backward",
]
"""What was found out about an operation, worst first.

`step`: its value jumps and is constant between the jumps. `jump`: its value jumps. `choice`: its value is an index or a
truth value, which jumps. `piecewise linear`: its derivative
jumps and its second derivative is zero almost everywhere. `kink`: its derivative jumps, with curvature between.
`curvature jump`: only its second derivative jumps. `no double backward`: autograd cannot differentiate its derivative.
`custom backward`: a `torch.autograd.Function` of the user's own. `random`: two runs on the same input differ.
"""

Verdict = Literal["smooth", "kinks", "steps", "no double backward", "no gradient"]


@dataclass(frozen=True)
class Finding:
    """One operation that is not twice differentiable everywhere, and where it ran.

    Attributes:
        operation: the name of the kernel that ran, such as `relu` or `max_pool2d`, or of a custom Function.
        kind: what was measured, see `Kind`.
        places: paths of the modules inside which it ran, with their classes; `forward` is the model itself.
        modes: in which modes of the model it ran.
        on_weights: whether it acts on parameters rather than on what the input becomes, as weight quantization does.
        detail: one sentence for people.
    """

    operation: str
    kind: Kind
    places: tuple[str, ...]
    modes: tuple[Mode, ...]
    on_weights: bool
    detail: str


@dataclass(frozen=True)
class DoubleBackward:
    """Whether the gradient by the weights could be differentiated by the input.

    Attributes:
        mode: of the model.
        kernels: `own`: whatever PyTorch chose; `math attention`: with the plain attention kernel, as every attack runs;
            `plain`: without cuDNN and oneDNN kernels too.
        runs: whether both backward passes ended.
        error: PyTorch's words if not.
    """

    mode: Mode
    kernels: Literal["own", "math attention", "plain"]
    runs: bool
    error: str = ""


@dataclass(frozen=True)
class Derivatives:
    """Numerical checks of the whole model's derivatives, in float64 where the model allows it.

    Attributes:
        double_backward: one entry for each mode and choice of kernels.
        step_errors: step on the unit direction in the weights, and relative difference between double backward and
            central differences of the input gradient over it; NaN where double backward does not run.
        step_changes: the same steps, and the relative change of the central difference from the step ten times as
            large; needs no double backward.
        first_error: relative difference between the gradient by the weights and differences of the loss itself; large
            where a backward pass is not the derivative of its forward pass, as with straight-through estimators.
        curvature: norm of the second derivative of the outputs by the input along a random unit direction of the input,
            relative to the first derivative's; 0 where the outputs are piecewise linear in the input. NaN if it cannot
            be computed.
        sensitivity: norm of the update's derivative by the input, from double backward or else from differences,
            relative to the update's norm; 0 where a search learns nothing.
        float64: whether the checks ran in float64.
        jittered: whether noise was added to the inputs, because at the inputs themselves some values lie exactly on
            kinks (black pixels before a convolution without bias do), so that no step is small enough.
    """

    double_backward: tuple[DoubleBackward, ...]
    step_errors: tuple[tuple[float, float], ...]
    step_changes: tuple[tuple[float, float], ...]
    first_error: float
    curvature: float
    sensitivity: float
    float64: bool
    jittered: bool = False

    @property
    def runs(self) -> bool:
        """Whether double backward runs in evaluation mode as the attacks call it."""
        return any(check.runs for check in self.double_backward if check.mode == "eval" and check.kernels != "own")

    @property
    def best_step(self) -> float:
        """The step at which differences agree best with double backward, or else change least; NaN if there is none."""
        errors = self.step_errors if self.runs else self.step_changes
        finite = [(error, step) for step, error in errors if math.isfinite(error)]
        return min(finite)[1] if finite else math.nan

    @property
    def best_error(self) -> float:
        """The error at `best_step`."""
        errors = self.step_errors if self.runs else self.step_changes
        return min((error for _, error in errors if math.isfinite(error)), default=math.nan)


@dataclass(frozen=True)
class Parameters:
    """Which parameters got a gradient at the inspected batch, in evaluation mode; all by name.

    Attributes:
        total: how many tensors are trained.
        without_gradient: trained, but not part of the loss's graph.
        zero_gradient: trained, with a gradient of zeros: dead at this batch.
        frozen: `requires_grad` is False, so an update holds nothing for them.
        tied: each second name of a shared parameter, with the first.
    """

    total: int
    without_gradient: tuple[str, ...]
    zero_gradient: tuple[str, ...]
    frozen: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Conditions:
    """What else an audit of this model has to state.

    Attributes:
        batch_norm: paths of modules that normalize with batch statistics in training mode.
        without_running_statistics: those that do so in evaluation mode too.
        coupled: modes in which one example's output depends on another example, measured.
        dropout: paths of modules with dropout.
        random: modes in which two runs differ, measured.
        in_place: operations that overwrite what the input became, with their places.
        precision: floating-point types of the parameters, with how many tensors have each.
        inside: floating-point types of what the input becomes inside the model.
        mode_difference: relative difference between the updates in training and in evaluation mode.
    """

    batch_norm: tuple[str, ...]
    without_running_statistics: tuple[str, ...]
    coupled: tuple[Mode, ...]
    dropout: tuple[str, ...]
    random: tuple[Mode, ...]
    in_place: tuple[str, ...]
    precision: tuple[tuple[str, int], ...]
    inside: tuple[str, ...]
    mode_difference: float


@dataclass(frozen=True)
class Route:
    """What one attack, or family of attacks, does with this model.

    Attributes:
        attack: names as `gradleak list attacks` prints them.
        works: True, False, or None where it runs with a handicap.
        why: one sentence for people.
    """

    attack: str
    works: bool | None
    why: str


@dataclass(frozen=True)
class Replacement:
    """A change that one may be tempted to make, and whether the audit is still of the same model after it.

    Attributes:
        what: the change.
        faithful: whether the function that the client trained, and so its update, stays what it is.
        why: one sentence for people.
    """

    what: str
    faithful: bool
    why: str


@dataclass(frozen=True)
class Inspection:
    """Everything that `inspect` found; see the classes of its parts.

    Attributes:
        verdict: `smooth`: no finding that stops a search by second derivatives; `kinks`: derivatives jump; `steps`:
            values jump or derivatives are zero; `no double backward`: autograd ends at the first derivative; `no
            gradient`: the update does not depend on the input at all.
        headline: the verdict in a sentence.
        findings: operations, worst first.
        derivatives: numerical checks of the whole model.
        parameters: which of them got a gradient.
        conditions: what else an audit has to state.
        routes: what each attack does.
        replacements: what may be replaced, and what not.
        inputs: what the model was run on, in words.
    """

    verdict: Verdict
    headline: str
    findings: tuple[Finding, ...]
    derivatives: Derivatives
    parameters: Parameters
    conditions: Conditions
    routes: tuple[Route, ...]
    replacements: tuple[Replacement, ...]
    inputs: str

    def to_dict(self) -> Mapping[str, Any]:
        """Plain data, as JSON can hold them; NaN stays a float."""
        plain = asdict(self)
        plain["derivatives"] |= {
            "runs": self.derivatives.runs,
            "best_step": self.derivatives.best_step,
            "best_error": self.derivatives.best_error,
        }
        return plain
