"""What an attack returns."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Status = Literal["converged", "budget", "nonfinite", "not_applicable"]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The best candidate that an attack held at one moment.

    Attributes:
        evaluations: evaluations of this restart so far.
        inputs: `[N, ...]` in the input space's own units.
    """

    evaluations: int
    inputs: Tensor


@dataclass(frozen=True)
class History:
    """The course of the restart that was returned; it holds nothing of the truth.

    Attributes:
        evaluations: count at each record.
        seconds: since the attack began, at each record.
        objective: value of the candidate evaluated then; not the best so far.
        snapshots: best candidates at a few moments, for pictures.
    """

    evaluations: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    objective: tuple[float, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """The attacker's final guess, with its own account of how it got there.

    Attributes:
        inputs: `[N, ...]` in the input space's own units, within its bounds; NaN when not applicable. Token ids are
            int64, -1 where nothing is known of a position.
        targets: class indices `[N]`, or ids `[N, T]` where every token is classified; -1 when not applicable.
        targets_given: whether the threat model gave the targets, so that their correctness means nothing.
        objective: value at `variable` and the attack's own target probabilities.
        evaluations: objective values with gradient, over all restarts.
        seconds: wall time.
        status: `converged` (objective at the attack's tolerance), `budget` (ended before), `nonfinite` (the
            returned restart diverged; its best finite candidate is kept), `not_applicable`.
        attack: the attack's name.
        variable: the continuous candidate `[N, *variable_shape]` before decoding.
        target_probabilities: the attack's targets as it used them, `[N, C]`, or `[N, T, C]`.
        message: one sentence for people, why it ended.
        history: its course.
        trace: what an attack made of several parts tried, one line each, and why it went on or stopped.
    """

    inputs: Tensor
    targets: Tensor
    targets_given: bool
    objective: float
    evaluations: int
    seconds: float
    status: Status
    attack: str
    variable: Tensor
    target_probabilities: Tensor
    message: str = ""
    history: History = field(default_factory=History)
    trace: tuple[str, ...] = ()

    @property
    def unclamped(self) -> Tensor:
        """The candidate in the input's own units before it was clamped to the bounds, where that makes sense."""
        return self.variable if self.variable.shape == self.inputs.shape else self.inputs
