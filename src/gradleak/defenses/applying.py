"""Several defenses in order: as the client applies them, and as an attacker who knows them takes them into account."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gradleak.defenses.preimage import Preimage
from gradleak.defenses.protocol import (
    ChangesBatch,
    ChangesTask,
    ChecksTask,
    Defense,
    LooksAtStep,
    PrivateStep,
    StatesPreimage,
)
from gradleak.seeds import stage_generator
from gradleak.tasks import InputSpace, Task
from gradleak.updates import UpdateKind

Response = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From the undefended update of a candidate to what is compared with the update that was sent."""


def defense_problems(defenses: Sequence[Defense], task: Task) -> list[str]:
    """Everything that keeps these defenses from being applied to a task, one line each."""
    problems: list[str] = []
    for defense in defenses:
        settings = defense.problems()
        problems += settings
        if isinstance(defense, ChecksTask) and not settings:
            problems += defense.task_problems(task)
        if isinstance(defense, LooksAtStep):
            problems += defense.step_problems(task)
    return problems


def changed_task(defenses: Sequence[Defense], task: Task) -> Task:
    """The task with every defense that is a part of the model built in."""
    for defense in defenses:
        if isinstance(defense, ChangesTask):
            task = defense.change_task(task)
    return task


def changed_batch(
    defenses: Sequence[Defense], variable: Tensor, target_probabilities: Tensor, space: InputSpace, seed: int
) -> tuple[Tensor, Tensor]:
    """The batch on which the client's step is made, after every defense that changes it.

    Args:
        defenses: in order.
        variable: what the model would receive, `[N, *variable_shape]`.
        target_probabilities: `[N, C]`.
        space: of the inputs.
        seed: of the defenses' private randomness.

    Returns:
        Variable and target probabilities.
    """
    for position, defense in enumerate(defenses):
        if isinstance(defense, ChangesBatch):
            generator = stage_generator(seed, f"defense/{position}")
            variable, target_probabilities = defense.change_batch(variable, target_probabilities, space, generator)
    return variable, target_probabilities


def defended(
    defenses: Sequence[Defense],
    tensors: Mapping[str, Tensor],
    kind: UpdateKind,
    *,
    step: PrivateStep | None = None,
    seed: int | None = None,
) -> dict[str, Tensor]:
    """The update after every defense that changes it, in order.

    Args:
        defenses: in order.
        tensors: the update by name; unchanged.
        kind: what it is.
        step: of the client, for defenses that look at it; without it they are left out.
        seed: of the defenses' private randomness; None for their deterministic part.

    Returns:
        New tensors by name.
    """
    sent = dict(tensors)
    for position, defense in enumerate(defenses):
        generator: torch.Generator | None = None if seed is None else stage_generator(seed, f"defense/{position}")
        if not isinstance(defense, LooksAtStep):
            sent = defense.apply(sent, kind, generator)
        elif step is not None:
            sent = defense.apply_to_step(sent, kind, step, generator)
    return sent


def response(defenses: Sequence[Defense], observed: Mapping[str, Tensor], kind: UpdateKind) -> Response:
    """What the update of a candidate is taken to become, by an attacker who knows the defenses.

    From the last defense inward, the update that was sent is taken back to what it says about the update before: the
    intervals of `Preimage`. Where that ends, at a clipping for instance, the defenses further in are simulated. What
    is returned equals the observed update wherever the candidate's lies in its interval, and misses it by the distance
    to the interval elsewhere; so every objective, and every search, becomes one that knows the defenses.

    Args:
        defenses: in order.
        observed: the update that was sent, by name.
        kind: what it is.

    Returns:
        A differentiable function of the candidate's tensors; other names pass through.
    """
    known, inner = Preimage.exactly(observed), list(defenses)
    while inner:
        last = inner[-1]
        before = last.preimage(known) if isinstance(last, StatesPreimage) else None
        if before is None:
            break
        known = before
        inner.pop()

    def respond(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        simulated = defended(inner, tensors, kind)
        missed = known.violation(simulated)
        replies = {name: observed[name].to(miss) + miss for name, miss in missed.items()}
        return {name: replies.get(name, tensor) for name, tensor in simulated.items()}

    return respond
